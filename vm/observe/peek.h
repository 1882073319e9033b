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
	VM_PEEK_SAVED,  /* it is a saved guest; what its definition names is read by vm_peek_saved(): `names`, paths
	                 * from / or names of volumes */
};

struct vm_peeked {
	enum vm_peek kind;
	const char *why; /* "is a QED image with a backing file"; static */
	char **names;    /* NULL-terminated, or NULL */
	size_t n_images; /* of a saved guest: the first of them are images that it writes to or that may stand on others */
};
void vm_peeked_fini(struct vm_peeked *peeked);

/* Looks at an open file or block device. 0, or the negative errno of reading. Gives *out. */
int vm_peek(int fd, struct vm_peeked *out);

/* The same of one that is SAVED, with what it names; STANDS: that cannot be read. Nothing that it names is looked at, for anybody may have made it. */
int vm_peek_saved(int fd, struct vm_peeked *out);

#endif
