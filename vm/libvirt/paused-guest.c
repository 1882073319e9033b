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
 * process could be noted, leaves a note with the time: a QEMU of this domain that carries the word and began within seconds of that is
 * ours. Dying within 2 leaves a libvirtd that goes on with it, for seconds, while it calls the domain shut off: who finds such a note
 * waits until the guest is there or can no longer come (vm_paused_guest_await), before anything is done to disks that it is to have.
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
#include <sys/stat.h>

#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/conn.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"

#define WORD_URI "https://virt-snapfs.org/xmlns/paused/1.0"
#define WORD_KEY "snapfs-paused"
#define OTHERS_PAUSE_US 200000
#define FAILED_MAX 10
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

/* @flags: LIVE or CONFIG. 1 and *token; 0: there is no word; negative: nobody can tell. The element is ours and has one attribute;
 * libvirt writes it with either kind of quote. */
static int read_token(virDomainPtr dom, unsigned flags, char *token, struct vs_err *err)
{
	vs_autofree char *xml = virDomainGetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, WORD_URI, flags);
	const char *at = xml ? strstr(xml, "token=") : NULL;

	if (!xml) {
		int r = vm_dom_virterr(dom, err, "the metadata of the domain");

		return r == -ENOENT ? 0 : r;
	}
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
	char path[512];
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

/* Calls @use with each process that says it is the QEMU of this domain, as anybody's may: how many there are. Negative: /proc cannot
 * be read. */
static int each_process(const char *uuid, void (*use)(void *opaque, int64_t pid, uint64_t began), void *opaque)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int n = 0;

	if (!proc)
		return -errno;
	while ((e = readdir(proc))) {
		uint64_t began = isdigit((unsigned char)e->d_name[0]) && runs_domain(e->d_name, uuid) ? process_began(e->d_name) : 0;

		if (!began)
			continue;
		use(opaque, strtoll(e->d_name, NULL, 10), began);
		n++;
	}
	closedir(proc);
	return n;
}

struct found {
	int64_t pid;    /* these two: of the last one */
	uint64_t began;
	uint64_t since; /* only those that began then, or later */
	int n;
};

static void take_process(void *opaque, int64_t pid, uint64_t began)
{
	struct found *found = opaque;

	if (began < found->since)
		return;
	found->pid = pid;
	found->began = began;
	found->n++;
}

/* The QEMU of this domain, which began at @since or later; false: there is none that we can see, or more than one. */
static bool find_process(const char *uuid, uint64_t since, struct vm_paused_guest *out)
{
	struct found found = { .since = since };

	if (each_process(uuid, take_process, &found) <= 0 || found.n != 1)
		return false;
	out->pid = found.pid;
	out->began = found.began;
	return true;
}

bool vm_paused_guest_process(const char *uuid, struct vm_paused_guest *out)
{
	return find_process(uuid, 0, out);
}

/* Of the descriptor: "flags:\t0100002", octal. */
static bool is_for_writing(int64_t pid, const char *fd)
{
	char own[32], name[300], text[512];
	const char *flags;

	snprintf(own, sizeof(own), "%" PRId64, pid);
	snprintf(name, sizeof(name), "fdinfo/%s", fd);
	if (read_proc(own, name, text, sizeof(text)) <= 0)
		return false;
	flags = strstr(text, "flags:");
	return flags && (strtoul(flags + strlen("flags:"), NULL, 8) & O_ACCMODE) != O_RDONLY;
}

int vm_paused_guest_process_has(int64_t pid, const char *path, bool for_writing)
{
	struct stat want, st;
	char dir[64];
	struct dirent *e;
	DIR *fds;
	int found = 0;

	snprintf(dir, sizeof(dir), "/proc/%" PRId64 "/fd", pid);
	if (stat(path, &want) < 0 || !(fds = opendir(dir)))
		return -errno;
	while (!found && (e = readdir(fds)))
		found = fstatat(dirfd(fds), e->d_name, &st, 0) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino &&
			(!for_writing || is_for_writing(pid, e->d_name));
	closedir(fds);
	return found;
}

static uint64_t now_ticks(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)vm_timespec_ns(t) / (uint64_t)(VM_NS_PER_S / sysconf(_SC_CLK_TCK));
}

struct looking {
	const struct vm_paused_guest *noted;
	uint64_t tick;
	bool is_it, may_be;
};

static void compare(void *opaque, int64_t pid, uint64_t began)
{
	struct looking *l = opaque;
	const struct vm_paused_guest *noted = l->noted;

	if (!noted->pid)
		l->is_it |= began + l->tick >= noted->began && began <= noted->began + BORN_S * l->tick;
	else if (began == noted->began) /* where processes have other numbers than where it was noted, it is not known */
		*(pid == noted->pid ? &l->is_it : &l->may_be) = true;
}

/* Is the QEMU of this domain, which runs, the process that was noted? 1; 0: it is another one; -ENODATA: it cannot be seen from here,
 * in a container or where /proc hides others' processes. That others pretend to be it as well changes nothing. */
static int is_noted(const char *uuid, const struct vm_paused_guest *noted, struct vs_err *err)
{
	struct looking l = { .noted = noted, .tick = (uint64_t)sysconf(_SC_CLK_TCK) };
	int n = each_process(uuid, compare, &l);

	if (l.is_it)
		return 1;
	if (n > 0 && !l.may_be)
		return 0;
	return vs_err_set(err, -ENODATA, "its QEMU is not among the processes that can be seen from here, so nobody can tell whether it is the one "
			  "that was started to work on its disks");
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
	const unsigned flags = VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE;
	vs_autofree char *before = NULL, *after = NULL, *xml = NULL;
	virDomainPtr started;
	int r = vm_dom_text(dom, flags, &before, err);

	if (r < 0)
		return r;
	xml = with_word(before, token);
	if (!xml)
		return vs_err_set(err, -EIO, "the configuration of the domain has no name");
	started = virDomainCreateXML(virDomainGetConnect(dom), xml, VIR_DOMAIN_START_PAUSED);
	if (!started) {
		virErrorPtr e = virGetLastError();
		bool is_up = e && e->code == VIR_ERR_OPERATION_INVALID; /* it was shut off when it was looked at */

		r = vm_dom_virterr(dom, err, "the domain cannot be started to work on its disks");
		return is_up && r == -EINVAL ? vs_err_set(err, -EBUSY, "%s", err ? strdupa(err->msg) : "") : r;
	}
	vm_fault();
	r = vm_dom_text(dom, flags, &after, err);
	if (r == 0 && strcmp(before, after) != 0)
		r = vs_err_set(err, -EBUSY, "the configuration of the domain was changed while it was started to work on its disks: try again");
	if (r < 0)
		virDomainDestroy(started); /* it has not run, and is of no use to who has changed it */
	virDomainFree(started);
	return r;
}

/* Who cannot see its QEMU could not tell later whether the guest is ours still, and would have to leave it behind. */
static int take_sight(virDomainPtr dom, struct vm_paused_guest *guest, struct vs_err *err)
{
	if (find_process(guest->uuid, guest->began - 1, guest))
		return 0;
	virDomainDestroy(dom); /* it was started a moment ago, and has not run */
	return vs_err_set(err, -EOPNOTSUPP, "the domain is shut off, and was to be started, paused, to work on its disks: its QEMU is not among the "
			  "processes that can be seen from here (in a container, or where /proc hides those of others), so it could not be "
			  "ended safely. Start the domain first, or mount where its QEMU can be seen");
}

int vm_paused_guest_start(virDomainPtr dom, int (*note)(void *opaque, const struct vm_paused_guest *guest, struct vs_err *err),
			  void *opaque,
			  struct vm_paused_guest *out, struct vs_err *err)
{
	struct vm_paused_guest guest = { .began = now_ticks() };
	char left[33];
	int r = may_start(dom, err);

	if (r == 0)
		r = new_token(guest.token, err);
	if (r < 0)
		return r;
	virDomainGetUUIDString(dom, guest.uuid);
	r = note(opaque, &guest, err);
	if (r == 0)
		r = read_token(dom, VIR_DOMAIN_AFFECT_CONFIG, left, err);
	if (r > 0)
		r = drop_token(dom, VIR_DOMAIN_AFFECT_CONFIG, err);
	if (r == 0)
		r = start_with_word(dom, guest.token, err);
	if (r == 0)
		r = take_sight(dom, &guest, err);
	if (r == 0 && (r = note(opaque, &guest, err)) < 0)
		virDomainDestroy(dom);
	if (r < 0)
		return r;
	guest.spent_ns = vcpu_ns(dom);
	if (guest.spent_ns == UINT64_MAX)
		guest.spent_ns = 0;
	*out = guest;
	return 0;
}

/* ---------------------------------------------------------------- end */

static int is_untouched(virDomainPtr dom, const struct vm_paused_guest *guest, struct vs_err *err)
{
	int state;
	uint64_t ran;

	if (virDomainGetState(dom, &state, NULL, 0) < 0)
		return vm_dom_virterr(dom, err, "the state of the domain");
	if (state == VIR_DOMAIN_SHUTOFF)
		return 0;
	if (state != VIR_DOMAIN_PAUSED)
		return -EEXIST;
	ran = vcpu_ns(dom);
	if (ran == UINT64_MAX)
		return vs_err_set(err, -ENODATA, "libvirt does not tell whether its processors have run");
	return ran <= guest->spent_ns + RAN_NS ? 1 : -EEXIST;
}

/* 1: it is that instance and paused; 0: it is not up; -EEXIST: somebody has it; anything else: nobody can tell, so it is left to neither. */
static int still_ours(virDomainPtr dom, const struct vm_paused_guest *guest, struct vs_err *err)
{
	char token[33];
	int r = vm_dom_active(dom, err);

	if (r <= 0)
		return r;
	r = read_token(dom, VIR_DOMAIN_AFFECT_LIVE, token, err);
	if (r > 0)
		r = strcmp(token, guest->token) == 0 ? is_noted(guest->uuid, guest, err) : 0;
	if (r > 0)
		r = is_untouched(dom, guest, err);
	else if (r == 0)
		r = -EEXIST;
	return r == 1 || vm_dom_active(dom, NULL) != 0 ? r : 0;
}

/* Until nobody is at work on it: 0; -ECANCELED. A job that hangs is for who began it to end. */
static int await_others(virDomainPtr dom, struct vm_dom_watch *watch, struct vs_err *err)
{
	bool told = false;

	for (int failed = 0;;) {
		struct vm_blockjob *jobs = NULL;
		size_t n = 0;
		int r = vm_blockjob_list(dom, &jobs, &n, err);

		if (r < 0) {
			if (vm_dom_active(dom, NULL) == 0)
				return 0; /* it has gone */
			if (r == -EHOSTDOWN || ++failed == FAILED_MAX)
				return r;
			usleep(OTHERS_PAUSE_US); /* it may be going */
			continue;
		}
		failed = 0;
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

/* 1: it is up, or not, and stays so; 0: libvirt is at it, or may have it still to do. */
static int is_decided(virDomainPtr dom, const struct vm_paused_guest *noted, struct vs_err *err)
{
	int state, reason, r = vm_dom_active(dom, err);

	if (r < 0)
		return r;
	if (r == 0)
		return now_ticks() < noted->began || now_ticks() > noted->began + VM_FAULT_PATIENCE(BORN_S) * (uint64_t)sysconf(_SC_CLK_TCK);
	if (virDomainGetState(dom, &state, &reason, 0) < 0)
		return vm_dom_virterr(dom, err, "the state of the domain");
	return state != VIR_DOMAIN_PAUSED || reason != VIR_DOMAIN_PAUSED_STARTING_UP;
}

int vm_paused_guest_await(virDomainPtr dom, const struct vm_paused_guest *noted, struct vm_dom_watch *watch, struct vs_err *err)
{
	bool told = false;
	int r;

	if (!noted->token[0] || noted->pid || vm_conn_is_in_process(virDomainGetConnect(dom)))
		return 0;
	while ((r = is_decided(dom, noted, err)) == 0) {
		if (!told)
			vm_dom_step(watch, "wait whether libvirt still starts the domain, paused, as an interrupted command had asked it to");
		told = true;
		if (vm_dom_cancelled(watch))
			return vs_err_set(err, -ECANCELED, "cancelled while libvirt may be starting the domain, paused, for an interrupted command");
		usleep(OTHERS_PAUSE_US);
	}
	return r < 0 ? r : 0;
}

static bool is_paused(virDomainPtr dom)
{
	int state;

	return virDomainGetState(dom, &state, NULL, 0) == 0 && state == VIR_DOMAIN_PAUSED;
}

int vm_paused_guest_find(virDomainPtr dom, const struct vm_paused_guest *noted, struct vm_paused_guest *out, struct vs_err *err)
{
	struct vm_paused_guest guest = *noted;
	char left[33];
	int r = vm_dom_active(dom, err);

	if (r < 0)
		return r;
	virDomainGetUUIDString(dom, guest.uuid);
	guest.spent_ns = 0;
	if (r > 0)
		r = read_token(dom, VIR_DOMAIN_AFFECT_LIVE, left, err);
	if (r > 0)
		r = noted->token[0] && !strcmp(left, noted->token) ? still_ours(dom, &guest, err) : -EEXIST;
	/* Somebody's, whatever word it has come by; but while it is paused and nothing is noted here it may be that of another mount of ours,
	 * with another state directory, which will know it by its word. */
	if (r == -EEXIST && !noted->token[0] && is_paused(dom))
		r = vs_err_set(err, -ENODATA, "it carries the word of a guest that another mount has started to work on its disks, and nothing is noted of "
			       "it here");
	else if (r == -EEXIST)
		r = drop_token(dom, VIR_DOMAIN_AFFECT_LIVE, err);
	if (virDomainIsPersistent(dom) == 1 && read_token(dom, VIR_DOMAIN_AFFECT_CONFIG, left, NULL) > 0)
		drop_token(dom, VIR_DOMAIN_AFFECT_CONFIG, NULL);
	if (r == 1) {
		if (!guest.pid)
			find_process(guest.uuid, guest.began - 1, &guest);
		*out = guest;
	}
	return r;
}
