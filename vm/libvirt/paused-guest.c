/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Block jobs need a QEMU, and a shut-off domain has none. So it is started with its vCPUs paused, worked on, and destroyed:
 * libvirt's locks, labels and image locks, and the corrected definition, come with it, and the guest never runs.
 *
 * The danger is in the end of it. Somebody may find the domain "paused" and resume it: then it is theirs and runs on. Or it
 * ends and is started again by somebody: then it is not our instance at all. libvirt's id does not tell, for it counts from
 * 1 again after libvirtd was restarted with nothing running. What tells is a random word in the metadata of the instance:
 *
 *     1. the word is noted
 *     2. the domain is started from its configuration with the word added (virDomainCreateXML), so that the instance has the word from
 *        its first moment, and the configuration never has it: who starts the domain himself, however soon, starts one without it
 *     3. the configuration is looked at once more: if somebody has changed it meanwhile, what was started is not what it says
 *
 * The word is libvirt's to keep, so it outlives us and libvirtd. But it also travels: into the record of a snapshot that somebody
 * takes of the paused guest, into a save image, and with a revert or a restore back into a definition and into another instance,
 * which is somebody's. So the word alone names nothing. It names our instance together with the process that QEMU is (its number, and
 * when it began, as the kernel tells), and both are in our notes from the start to the end: who has the word but is another process is
 * left alone. A word in a configuration is one that travelled, and goes (vm_paused_guest_find). Dying right after 2, before the
 * process
 * could be noted, leaves a note with the time: a QEMU of this domain that carries the word and began within seconds of that is ours.
 *
 * A second condition: none of its vCPUs has run since the start. Their threads sleep until they are resumed, whatever block jobs do;
 * measured under TCG, 20 ms of running show as 20 ms, and an hour of waiting as nothing. And a third: nobody is at work on it. Who
 * finds the domain up may begin a block job or a delete of his own; that is waited for before the guest is ended.
 *
 * Autodestroy instead of all this would be simpler, but ties the guest to our connection for good, so that what somebody has
 * resumed would be destroyed under them when we unmount.
 */
#include "vm/libvirt/paused-guest.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"

#define WORD_URI "https://virt-snapfs.org/xmlns/paused/1.0"
#define WORD_KEY "snapfs-paused"
#define OTHERS_PAUSE_US 200000
#define RAN_NS (15 * VM_NS_PER_MS) /* more than one tick of the clock by which threads are charged */

/* ---------------------------------------------------------------- the word */

static int new_token(char *token, struct vs_err *err)
{
	uint64_t random[2];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return vs_err_set(err, -EIO, "the kernel gives no random numbers");
	snprintf(token, 33, "%016llx%016llx", (unsigned long long)random[0], (unsigned long long)random[1]);
	return 0;
}

/* @flags: LIVE or CONFIG. 1 and *token, or 0 where there is no word. The element is ours and has one attribute; libvirt
 * writes it with either kind of quote. */
static int read_token(virDomainPtr dom, unsigned flags, char *token)
{
	vs_autofree char *xml = virDomainGetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, WORD_URI, flags);
	const char *at = xml ? strstr(xml, "token=") : NULL;

	return at && sscanf(at + 6, "%*1[\"']%32[0-9a-f]", token) == 1 && strlen(token) == 32;
}

static int drop_token(virDomainPtr dom, unsigned flags, struct vs_err *err)
{
	if (virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, NULL, WORD_KEY, WORD_URI, flags) == 0) {
		vm_fault();
		return 0;
	}
	return vm_dom_virterr(dom, err, "the metadata of the domain");
}

/* ---------------------------------------------------------------- the process */

#define ARGS_MAX 65536
#define BORN_S 30 /* from the note that a guest is about to be started to the birth of its QEMU */

static ssize_t read_proc(const char *pid, const char *name, char *buf, size_t room)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	vs_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, room - 1);
	if (n >= 0)
		buf[n] = '\0';
	return n;
}

/* Does its command line say "-uuid UUID"? */
static bool runs_domain(const char *pid, const char *uuid)
{
	static __thread char args[ARGS_MAX];
	ssize_t n = read_proc(pid, "cmdline", args, sizeof(args));

	for (char *arg = args; arg < args + n; arg += strlen(arg) + 1)
		if (!strcmp(arg, "-uuid") && arg + 6 < args + n && !strcmp(arg + 6, uuid))
			return true;
	return false;
}

/* When it began, in seconds and clock ticks since the host did; 0: it is not there. */
static uint64_t process_began(const char *pid)
{
	char stat[1024], *end;
	uint64_t ticks = 0;

	if (read_proc(pid, "stat", stat, sizeof(stat)) <= 0)
		return 0;
	end = strrchr(stat, ')'); /* the name before it may hold anything */
	/* fields 3 to 22 */
	if (!end || sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64, &ticks) != 1)
		return 0;
	return ticks;
}

/* The QEMU of this domain; false: there is none that we can see, or more than one. */
static bool find_process(const char *uuid, int64_t *pid, uint64_t *began)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	size_t n = 0;

	while (proc && (e = readdir(proc)))
		if (isdigit((unsigned char)e->d_name[0]) && runs_domain(e->d_name, uuid)) {
			*pid = strtoll(e->d_name, NULL, 10);
			*began = process_began(e->d_name);
			n++;
		}
	if (proc)
		closedir(proc);
	return n == 1 && *began;
}

bool vm_paused_guest_process(const char *uuid, struct vm_paused_guest *out)
{
	return find_process(uuid, &out->pid, &out->began);
}

static uint64_t now_ticks(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * (uint64_t)sysconf(_SC_CLK_TCK);
}

/* Is the QEMU of this domain the process that was noted? */
static bool is_noted(const char *uuid, const struct vm_paused_guest *noted)
{
	uint64_t began = 0, tick = (uint64_t)sysconf(_SC_CLK_TCK);
	int64_t pid = 0;

	if (!find_process(uuid, &pid, &began))
		return false;
	if (noted->pid)
		return pid == noted->pid && began == noted->began;
	return began + tick >= noted->began && began <= noted->began + BORN_S * tick;
}

/* ---------------------------------------------------------------- start */

static int may_start(virDomainPtr dom, struct vs_err *err)
{
	int saved = virDomainHasManagedSaveImage(dom, 0), active;

	if (saved < 0)
		return vm_dom_virterr(dom, err, "the managed save of the domain");
	if (saved)
		return vs_err_set(err, -EPERM, "domain '%s' has a managed save, which a start would use up: start it and shut it "
				  "down, or 'virsh managedsave-remove' it first", virDomainGetName(dom));
	active = vm_dom_active(dom, err);
	return active > 0 ? vs_err_set(err, -EBUSY, "domain '%s' is running", virDomainGetName(dom)) : active;
}

/* The id belongs to a pointer, not to the domain: a new look-up knows the present one. -1: it does not run. */
static int present_id(virDomainPtr dom)
{
	char uuid[VIR_UUID_STRING_BUFLEN];
	virDomainPtr fresh = NULL;
	int id = -1;

	if (virDomainGetUUIDString(dom, uuid) == 0)
		fresh = virDomainLookupByUUIDString(virDomainGetConnect(dom), uuid);
	if (fresh) {
		unsigned got = virDomainGetID(fresh);

		id = got == (unsigned)-1 ? -1 : (int)got;
		virDomainFree(fresh);
	}
	return id;
}

/* What the busiest vCPU has run; unknown is much. */
static uint64_t vcpu_ns(virDomainPtr dom)
{
	virVcpuInfo vcpus[64];
	uint64_t most = 0;
	int n = virDomainGetVcpus(dom, vcpus, VS_ARRAY_LEN(vcpus), NULL, 0);

	for (int i = 0; i < n; i++)
		most = vcpus[i].cpuTime > most ? vcpus[i].cpuTime : most;
	return n > 0 ? most : UINT64_MAX;
}

/* Gives. */
static char *configuration(virDomainPtr dom, struct vs_err *err)
{
	char *xml = virDomainGetXMLDesc(dom, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);

	if (!xml)
		vm_dom_virterr(dom, err, "the configuration of the domain");
	return xml;
}

/* The same with the word in its metadata, of which there is one element or none. Gives. */
static char *with_word(const char *xml, const char *token)
{
	vs_autofree char *word = xasprintf("<vsp:paused xmlns:vsp='%s' token='%s'/>", WORD_URI, token);
	const char *metadata = strstr(xml, "<metadata>"), *name = strstr(xml, "</name>"), *at;

	if (!metadata && !name)
		return NULL;
	at = metadata ? metadata + strlen("<metadata>") : name + strlen("</name>");
	return xasprintf("%.*s%s%s%s%s", (int)(at - xml), xml, metadata ? "" : "<metadata>", word, metadata ? "" : "</metadata>", at);
}

static int start_with_word(virDomainPtr dom, const char *token, struct vs_err *err)
{
	vs_autofree char *before = configuration(dom, err), *after = NULL, *xml = NULL;
	virDomainPtr started;

	if (!before)
		return err->code;
	xml = with_word(before, token);
	if (!xml)
		return vs_err_set(err, -EIO, "the configuration of the domain has no name");
	started = virDomainCreateXML(virDomainGetConnect(dom), xml, VIR_DOMAIN_START_PAUSED);
	if (!started)
		return vm_dom_virterr(dom, err, "the domain cannot be started to work on its disks");
	vm_fault();
	after = configuration(dom, NULL);
	if (after && strcmp(before, after) != 0) {
		virDomainDestroy(started); /* it has not run, and is of no use to who has changed it */
		virDomainFree(started);
		return vs_err_set(err, -EBUSY, "the configuration of the domain was changed while it was started to work on its disks: try again");
	}
	virDomainFree(started);
	return 0;
}

int vm_paused_guest_start(virDomainPtr dom, void (*before)(void *opaque, const struct vm_paused_guest *guest), void *opaque,
			  struct vm_paused_guest *out, struct vs_err *err)
{
	struct vm_paused_guest guest = { .began = now_ticks() };
	struct vs_err local = {0};
	char left[33];
	int r;

	if (!err)
		err = &local;
	r = may_start(dom, err);

	if (r == 0)
		r = new_token(guest.token, err);
	if (r < 0)
		return r;
	virDomainGetUUIDString(dom, guest.uuid);
	before(opaque, &guest);
	if (read_token(dom, VIR_DOMAIN_AFFECT_CONFIG, left))
		r = drop_token(dom, VIR_DOMAIN_AFFECT_CONFIG, err);
	if (r == 0)
		r = start_with_word(dom, guest.token, err);
	if (r < 0)
		return r;
	guest.id = present_id(dom);
	if (!find_process(guest.uuid, &guest.pid, &guest.began))
		guest.pid = 0;
	guest.spent_ns = vcpu_ns(dom);
	if (guest.spent_ns == UINT64_MAX)
		guest.spent_ns = 0;
	*out = guest;
	return 0;
}

/* ---------------------------------------------------------------- end */

/* 1: it is that instance and paused; 0: it is not up; -EEXIST: somebody has it. */
static int still_ours(virDomainPtr dom, const struct vm_paused_guest *guest, struct vs_err *err)
{
	char token[33];
	int state, active = vm_dom_active(dom, err);

	if (active <= 0)
		return active;
	if (!read_token(dom, VIR_DOMAIN_AFFECT_LIVE, token) || strcmp(token, guest->token) != 0 || !is_noted(guest->uuid, guest))
		return vm_dom_active(dom, NULL) == 1 ? -EEXIST : 0;
	if (virDomainGetState(dom, &state, NULL, 0) < 0)
		return vm_dom_virterr(dom, err, "the state of the domain");
	if (state == VIR_DOMAIN_SHUTOFF)
		return 0;
	return state == VIR_DOMAIN_PAUSED && vcpu_ns(dom) <= guest->spent_ns + RAN_NS ? 1 : -EEXIST;
}

/* Until nobody is at work on it: 0; -ECANCELED. A job that hangs is for who began it to end. */
static int await_others(virDomainPtr dom, struct vm_dom_watch *watch, struct vs_err *err)
{
	bool told = false;

	for (;;) {
		struct vm_blockjob *jobs = NULL;
		size_t n = 0;

		if (vm_blockjob_list(dom, &jobs, &n, NULL) < 0)
			return 0; /* it is going, or has gone */
		vm_blockjob_list_free(jobs, n);
		if (n == 0)
			return 0;
		if (!told)
			vm_dom_step(watch, "wait for the job that another tool has begun in the guest that was started for this");
		told = true;
		if (vm_dom_cancelled(watch))
			return vs_err_set(err, -ECANCELED, "cancelled while another tool is at work in the guest that was started for this: it "
					  "stays, paused, and is 'virsh destroy'ed when that is done");
		usleep(OTHERS_PAUSE_US);
	}
}

static int end(virDomainPtr dom, const struct vm_paused_guest *guest, struct vm_dom_watch *watch, struct vs_err *err)
{
	int r = still_ours(dom, guest, err);

	if (r == 1) {
		r = await_others(dom, watch, err);
		if (r == 0)
			r = still_ours(dom, guest, err);
	}
	if (r == -EEXIST) {
		drop_token(dom, VIR_DOMAIN_AFFECT_LIVE, NULL);
		return 1;
	}
	if (r <= 0)
		return r;
	if (virDomainDestroy(dom) == 0) {
		vm_fault();
		return 0;
	}
	r = vm_dom_virterr(dom, err, "the domain, which was started to work on its disks, cannot be ended");
	return vm_dom_active(dom, NULL) == 0 ? 0 : r;
}

int vm_paused_guest_end(virConnectPtr conn, const struct vm_paused_guest *guest, struct vm_dom_watch *watch, struct vs_err *err)
{
	virDomainPtr dom = virDomainLookupByUUIDString(conn, guest->uuid);
	int r;

	if (!dom) {
		r = vm_virterr_set(err, "domain %s", guest->uuid);
		return r == -ENOENT ? 0 : r;
	}
	r = end(dom, guest, watch, err);
	virDomainFree(dom);
	return r;
}

/* ---------------------------------------------------------------- after a crash */

int vm_paused_guest_find(virDomainPtr dom, const struct vm_paused_guest *noted, struct vm_paused_guest *out, struct vs_err *err)
{
	struct vm_paused_guest guest = *noted;
	char left[33];
	int active = vm_dom_active(dom, err), r = 0;

	if (active < 0)
		return active;
	virDomainGetUUIDString(dom, guest.uuid);
	guest.spent_ns = 0;
	if (active && read_token(dom, VIR_DOMAIN_AFFECT_LIVE, left))
		r = noted->token[0] && !strcmp(left, noted->token) ? still_ours(dom, &guest, err) : -EEXIST;
	if (r == -EEXIST) /* somebody's, whatever word it has come by */
		r = drop_token(dom, VIR_DOMAIN_AFFECT_LIVE, err);
	if (virDomainIsPersistent(dom) == 1 && read_token(dom, VIR_DOMAIN_AFFECT_CONFIG, left))
		drop_token(dom, VIR_DOMAIN_AFFECT_CONFIG, NULL);
	if (r == 1) {
		guest.id = present_id(dom);
		if (!guest.pid)
			find_process(guest.uuid, &guest.pid, &guest.began);
		*out = guest;
	}
	return r;
}
