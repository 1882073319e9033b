/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * qemu-img.h: running qemu-img.
 */
#ifndef VS_VM_LIBVIRT_QEMU_IMG_H
#define VS_VM_LIBVIRT_QEMU_IMG_H

#include "qcow2/base.h"

/* Runs a program with a minimal environment and no shell, and waits for it. What it writes to stderr becomes the sentence
 * (-EIO). argv[0] is looked up in PATH. */
int vm_qemu_img_run(const char *const *argv, struct vs_err *err);

/* What to call the qcow2 image at @path for qemu-img, so that it does not open what that stands on. Gives. */
char *vm_qemu_img_alone(const char *path);

#endif
