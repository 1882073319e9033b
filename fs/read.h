/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * read.h: the data path of an image: from a request to the bytes of its reply.
 */
#ifndef VS_READ_H
#define VS_READ_H

#include "handle.h"
#include "reply.h"

/* Answers, or returns a negative errno (see image.h) without having answered. May wait; holds no lock. */
int sf_read_image(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off);

/* The same of a file that is made (made.h): always copied. */
int sf_read_made(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off);

/* The same of a file of now/: without waiting (else -EAGAIN), and with. */
int sf_read_now_at_once(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off);
int sf_read_now(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off);

#endif
