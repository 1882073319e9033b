/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Where the socket is
 * -------------------
 * QEMU makes it: as a user of its own, in a mount namespace of its own, under AppArmor or SELinux. The one directory where it may make
 * sockets whatever of these is in force is the one that libvirt makes for each running domain, where its monitor is: nobody but that
 * user and root can enter it, and it goes with the instance. Its name, LIBDIR/domain-ID-NAME with the name cut somewhere, is not
 * in any XML; that it begins with the ID is all that is taken for granted.
 *
 * Whose job it is
 * ---------------
 * libvirt has one backup job at a time for a domain, and tells its XML. A word of chance is in the socket's name, so a job with that
 * socket is the one that was asked for with it, whoever asks and however long after. Which one is to be ended libvirt cannot be told: it ends the
 * one that is there. So whose that is is asked just before, and what remains is the moment between the two calls, in which ours would have to
 * end by itself and somebody else's begin.
 */
#include "vm/libvirt/backup.h"

#include <dirent.h>
#include <errno.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/un.h>

#include "vm/libvirt/conn.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"

#define OVER_S 30
#define OVER_PAUSE_US 20000

/* ---------------------------------------------------------------- the socket */

/* What begins with @prefix below @dir. Gives; NULL: nothing. */
static char *find_below(const char *dir, const char *prefix)
{
	DIR *d = opendir(dir);
	char *found = NULL;

	for (struct dirent *e = d ? readdir(d) : NULL; e && !found; e = readdir(d))
		if (!strncmp(e->d_name, prefix, strlen(prefix)))
			found = xasprintf("%s/%s", dir, e->d_name);
	if (d)
		closedir(d);
	return found;
}

/* "lib": of a user's own session. Gives; NULL: not known. */
static char *guest_dir(virDomainPtr dom)
{
	static const char *const libs[] = { "qemu", "lib" };
	vs_autofree char *state = vm_conn_state_dir(virDomainGetConnect(dom));
	vs_autofree char *prefix = xasprintf("domain-%u-", virDomainGetID(dom));
	char *found = NULL;

	for (size_t i = 0; state && !found && i < VS_ARRAY_LEN(libs); i++) {
		vs_autofree char *lib = xasprintf("%s/%s", state, libs[i]);

		found = find_below(lib, prefix);
	}
	return found;
}

int vm_backup_new_socket(virDomainPtr dom, char **socket, struct vs_err *err)
{
	vs_autofree char *dir = guest_dir(dom), *path = NULL;
	uint64_t word;

	if (!dir)
		return vs_err_set(err, -EOPNOTSUPP, "the directory in which libvirt lets the QEMU of this domain make a socket is not to be found%s",
				  geteuid() ? ", or not for this user" : "");
	if (access(dir, X_OK) < 0)
		return vs_err_set(err, -errno, "'%s', where the QEMU of this domain makes its sockets: %s", dir, strerror(errno));
	if (getrandom(&word, sizeof(word), 0) != sizeof(word))
		return vs_err_set(err, -EIO, "the kernel gives no random numbers");
	path = xasprintf("%s/now-%016llx", dir, (unsigned long long)word);
	if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return vs_err_set(err, -ENAMETOOLONG, "'%s' is too long for a socket", path);
	*socket = vs_steal(path);
	return 0;
}

/* ---------------------------------------------------------------- the job */

int vm_backup_size(virDomainPtr dom, const char *target, uint64_t *size, struct vs_err *err)
{
	virDomainBlockInfo info;

	if (virDomainGetBlockInfo(dom, target, &info, 0) < 0)
		return vm_dom_virterr(dom, err, "the size of disk '%s'", target);
	*size = info.capacity;
	return 0;
}

int vm_backup_begin(virDomainPtr dom, const char *socket, const struct vm_new_backup_disk *disks, size_t n, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = vm_new_backup(socket, disks, n, &text, err);

	if (r < 0)
		return r;
	if (virDomainBackupBegin(dom, text, NULL, VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL) < 0)
		return vm_dom_virterr(dom, err, "the backup job");
	vm_fault();
	return 0;
}

int vm_backup_is(virDomainPtr dom, const char *socket, struct vs_err *err)
{
	vs_autofree char *text = virDomainBackupGetXMLDesc(dom, 0), *now = NULL;
	int r;

	if (!text) {
		bool none = virGetLastErrorCode() == VIR_ERR_NO_DOMAIN_BACKUP || virGetLastErrorCode() == VIR_ERR_NO_DOMAIN;

		r = none ? 0 : vm_dom_virterr(dom, err, "the backup job of the domain");
		return r == 0 || vm_dom_active(dom, NULL) == 0 ? 0 : r;
	}
	r = vm_backup_socket(text, &now, err);
	return r < 0 ? r : vm_same_text(now, socket);
}

int vm_backup_end(virDomainPtr dom, const char *socket, struct vs_err *err)
{
	int64_t until = vm_steady_ns() + OVER_S * VM_NS_PER_S;
	struct vs_err why = {0};
	int r = vm_backup_is(dom, socket, err), asked;

	if (r <= 0)
		return r;
	asked = virDomainAbortJob(dom) < 0 ? vm_dom_virterr(dom, &why, "the end of the backup job") : 0;
	vm_fault();
	while ((r = vm_backup_is(dom, socket, err)) == 1 && asked == 0 && vm_steady_ns() < until)
		usleep(OVER_PAUSE_US);
	if (r == 1)
		return asked < 0 ? vs_err_set(err, asked, "%s", why.msg) : vs_err_set(err, -ETIMEDOUT, "the backup job does not end");
	return r;
}

bool vm_backup_is_of_this_run(virDomainPtr dom, const char *socket)
{
	vs_autofree char *dir = guest_dir(dom);

	return dir && !strncmp(socket, dir, strlen(dir)) && socket[strlen(dir)] == '/';
}

int vm_backup_is_stuck(virDomainPtr dom, struct vs_err *err)
{
	int state, reason;

	if (virDomainGetState(dom, &state, &reason, 0) < 0)
		return vm_dom_virterr(dom, err, "the state of the domain");
	return state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_IOERROR;
}
