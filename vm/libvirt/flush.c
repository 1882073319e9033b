/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * QEMU's stream job (virsh blockpull) ends with a new header, which names no backing file any more, while the tables that say where the
 * pulled clusters lie are in QEMU's cache: on the disk, all that was pulled is missing until the guest flushes, which an idle or a
 * paused one never does. Should QEMU be killed then, it is lost, and with it what the layers beneath are removed for. (7.2; a commit
 * flushes its base when it is done.)
 *
 * libvirt has no call that flushes. A suspend does, but libvirt skips it where the guest is paused already, and if we died before the resume
 * a guest would stand still that nobody has stopped. So QEMU is asked by its own monitor, through libvirt, which notes that in its
 * log ("tainted: custom-monitor"). The guest does not notice.
 */
#include "vm/libvirt/flush.h"

#include <errno.h>
#include <json-c/json.h>
#include <libvirt/libvirt-qemu.h>
#include <string.h>

#include "vm/util/mem.h"

/* Gives *answer: what it says to one QMP command. */
static int ask(virDomainPtr dom, const char *command, json_object **answer, struct vs_err *err)
{
	vs_autofree char *text = NULL;

	if (virDomainQemuMonitorCommand(dom, command, &text, 0) < 0)
		return vm_dom_virterr(dom, err, "QEMU cannot be asked to write out its caches");
	*answer = json_tokener_parse(text);
	if (*answer && json_object_object_get_ex(*answer, "return", NULL))
		return 0;
	json_object_put(*answer);
	return vs_err_set(err, -EIO, "QEMU does not write out its caches: %s", text);
}

/* The human monitor's answer is what there is to complain of, or nothing. */
static int flush_device(virDomainPtr dom, const char *device, struct vs_err *err)
{
	vs_autofree char *command = xasprintf("{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":"
					      "\"qemu-io -d %s flush\"}}", device);
	json_object *answer;
	const char *said;
	int r = ask(dom, command, &answer, err);

	if (r < 0)
		return r;
	said = json_object_get_string(json_object_object_get(answer, "return"));
	if (said && said[0])
		r = vs_err_set(err, -EIO, "QEMU does not write out the caches of '%s': %.*s", device, (int)strcspn(said, "\r\n"), said);
	json_object_put(answer);
	return r;
}

/* NULL: nothing to flush, such as an empty drive. Borrowed. */
static const char *device_of(json_object *entry)
{
	json_object *inserted = json_object_object_get(entry, "inserted");
	const char *qdev = json_object_get_string(json_object_object_get(entry, "qdev"));

	if (!inserted || !qdev || !qdev[0] || json_object_get_boolean(json_object_object_get(inserted, "ro")))
		return NULL;
	return qdev[strspn(qdev, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./[]")] ? NULL : qdev;
}

int vm_flush(virDomainPtr dom, struct vs_err *err)
{
	json_object *answer, *list;
	int r = vm_dom_active(dom, err);

	if (r <= 0)
		return r;
	r = ask(dom, "{\"execute\":\"query-block\"}", &answer, err);
	if (r < 0)
		return r;
	list = json_object_object_get(answer, "return");
	for (size_t i = 0; r == 0 && json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
		const char *device = device_of(json_object_array_get_idx(list, i));

		r = device ? flush_device(dom, device, err) : 0;
	}
	json_object_put(answer);
	return r;
}
