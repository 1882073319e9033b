/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * peek.h: can a file that lies about stand on another one, or need it? What its first bytes say.
 *
 * A format that can name another file has a magic of its own. What has none of those (an ISO, a text, a raw disk) stands on nothing.
 * A saved guest (`virsh save`, and the memory of a snapshot) brings the definition that it is restored with.
 * Nothing is ever served because of what is found here, see dirs.h. Threads: any.
 */
#ifndef VS_VM_OBSERVE_PEEK_H
#define VS_VM_OBSERVE_PEEK_H

#include "qcow2/base.h"

enum vm_peek {
	VM_PEEK_ALONE,  /* it stands on nothing */
	VM_PEEK_QCOW2,  /* it is a qcow2 image: its header is to be read */
	VM_PEEK_STANDS, /* it stands, or may stand, on something that is not followed here: `why` */
	VM_PEEK_PARTS,  /* it consists of other files, which stand on nothing: `names`, as it has them */
	VM_PEEK_SAVED,  /* it is a saved guest, whose definition names these: `names`, paths from / (and where they
	                 * lead now) or names of volumes */
};

struct vm_peeked {
	enum vm_peek kind;
	const char *why; /* "is a QED image with a backing file"; static */
	char **names;    /* NULL-terminated, or NULL */
};
void vm_peeked_fini(struct vm_peeked *peeked);

/* Looks at an open file or block device. 0, or the negative errno of reading. Gives *out. */
int vm_peek(int fd, struct vm_peeked *out);

#endif
