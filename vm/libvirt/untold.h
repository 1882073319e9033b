/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * untold.h: what libvirt has files of and does not list: definitions of domains and pools, records of snapshots and checkpoints.
 *
 * libvirtd skips at its start what it cannot read (cut off by a power cut, of a newer version), and one that could not write a record does not know the
 * snapshot any more, while the file is there still. To conclude from its lists that nobody has the images of these would be to lose them. What lies in
 * its directories is looked for by name only; what is in the files is libvirt's business. Where its directories are not known, or we may not list them,
 * nothing is found. Threads: any, one for each.
 */
#ifndef VS_VM_LIBVIRT_UNTOLD_H
#define VS_VM_LIBVIRT_UNTOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What one directory has beyond what is listed, as of the last look. Zero-initialise. */
struct vm_untold {
	char **names; /* of n files, without the suffix */
	size_t n;
	int code;     /* 0; or why the directory could not be listed (-EIO), though nobody forbids it: then what there was at the last look is told */
	/* private */
	uint64_t dev, ino, listed;
	int64_t mtime_ns;
	bool settled;
};
void vm_untold_fini(struct vm_untold *u);

/*
 * Looks into @dir (NULL: nothing is found) where it or @listed, a sum of all that libvirt lists, is not as it was. @is_listed: does libvirt know that name, in its list
 * or, for one that has come since, when it is asked once more? True: the names are others than before.
 */
bool vm_untold_look(struct vm_untold *u, const char *dir, uint64_t listed, bool (*is_listed)(void *opaque, const char *name), void *opaque);
/* What was found was another daemon's: nothing is untold until something changes there. */
void vm_untold_disbelieve(struct vm_untold *u);

#endif
