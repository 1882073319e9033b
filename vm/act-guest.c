/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block jobs need a QEMU, and a shut-off domain has none. So it is started with its vCPUs paused, worked on, and destroyed:
 * libvirt's locks, labels and image locks, and the corrected definition, come with it, and the guest never runs.
 *
 * The danger is in the end of it. Somebody may find the domain "paused" and resume it: then it is theirs and runs on. Or it
 * ends and is started again by somebody: then it is not our instance at all. libvirt's id does not tell, for it counts from
 * 1 again after libvirtd was restarted with nothing running. What tells is a random word in the metadata of the instance:
 *
 *     1. the word is written into the configuration
 *     2. the domain is started: the instance's metadata are a copy, so it has the word from its first moment
 *     3. the word is removed from the configuration: only this one instance has it
 *
 * The word is libvirt's to keep, so it outlives us and libvirtd. Dying after 1 leaves a word in the configuration, which goes
 * at the next mount (vm_act_find_paused). Dying after 2 or 3 leaves a paused guest with the word: the next mount ends it.
 *
 * Two things can still go wrong: somebody resumes the guest and suspends it again, or starts the domain while the word is in
 * its configuration. So there is a second condition: none of its vCPUs has run since the start. Their threads sleep until
 * they are resumed, whatever block jobs do; measured under TCG, 20 ms of running show as 20 ms, and an hour of waiting as
 * nothing. What has never run an instruction holds nothing that could be lost.
 *
 * Autodestroy instead of all this would be simpler, but ties the guest to our connection for good, so that what somebody has
 * resumed would be destroyed under them when we unmount.
 */
#include <errno.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "vm/act-priv.h"
#include "vm/clock.h"
#include "vm/virterr.h"

#define WORD_URI "https://virt-snapfs.org/xmlns/paused/1.0"
#define WORD_KEY "snapfs-paused"
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

static int write_token(virDomainPtr dom, unsigned flags, const char *token, struct vs_err *err)
{
	char xml[80];

	snprintf(xml, sizeof(xml), "<paused token='%s'/>", token ? token : "");
	if (virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, token ? xml : NULL, WORD_KEY, WORD_URI, flags) == 0) {
		vm_fault();
		return 0;
	}
	return vm_act_virterr(dom, err, "the metadata of the domain");
}

/* ---------------------------------------------------------------- start */

static int may_start(virDomainPtr dom, struct vs_err *err)
{
	int saved = virDomainHasManagedSaveImage(dom, 0), active;

	if (saved < 0)
		return vm_act_virterr(dom, err, "the managed save of the domain");
	if (saved)
		return vs_err_set(err, -EPERM, "domain '%s' has a managed save, which a start would use up: start it and shut it "
				  "down, or 'virsh managedsave-remove' it first", virDomainGetName(dom));
	active = vm_act_active(dom, err);
	return active > 0 ? vs_err_set(err, -EBUSY, "domain '%s' is running", virDomainGetName(dom)) : active;
}

/* Drivers that cannot tie say so in as many ways as there are drivers; whatever else is wrong is wrong untied as well. */
static int start(virDomainPtr dom, struct vm_act_guest *guest)
{
	if (guest->tied && virDomainCreateWithFlags(dom, VIR_DOMAIN_START_PAUSED | VIR_DOMAIN_START_AUTODESTROY) == 0)
		return 0;
	guest->tied = false;
	return virDomainCreateWithFlags(dom, VIR_DOMAIN_START_PAUSED);
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

int vm_act_start_paused(virDomainPtr dom, bool tie, struct vm_act_guest *out, struct vs_err *err)
{
	struct vm_act_guest guest = { .tied = tie };
	int r = may_start(dom, err);

	if (r == 0)
		r = new_token(guest.token, err);
	if (r == 0)
		r = write_token(dom, VIR_DOMAIN_AFFECT_CONFIG, guest.token, err);
	if (r < 0)
		return r;
	if (start(dom, &guest) < 0)
		r = vm_act_virterr(dom, err, "the domain cannot be started to work on its disks");
	vm_fault();
	write_token(dom, VIR_DOMAIN_AFFECT_CONFIG, NULL, NULL);
	if (r < 0) {
		write_token(dom, VIR_DOMAIN_AFFECT_LIVE, NULL, NULL); /* of who was quicker */
		return r;
	}
	virDomainGetUUIDString(dom, guest.uuid);
	guest.id = present_id(dom);
	guest.spent_ns = vcpu_ns(dom);
	if (guest.spent_ns == UINT64_MAX)
		guest.spent_ns = 0;
	*out = guest;
	return 0;
}

/* ---------------------------------------------------------------- end */

/* 1: it is that instance and paused; 0: it is not up; -EEXIST: somebody has it. */
static int still_ours(virDomainPtr dom, const struct vm_act_guest *guest, struct vs_err *err)
{
	char token[33];
	int state, active = vm_act_active(dom, err);

	if (active <= 0)
		return active;
	if (!read_token(dom, VIR_DOMAIN_AFFECT_LIVE, token) || strcmp(token, guest->token) != 0)
		return vm_act_active(dom, NULL) == 1 ? -EEXIST : 0;
	if (virDomainGetState(dom, &state, NULL, 0) < 0)
		return vm_act_virterr(dom, err, "the state of the domain");
	if (state == VIR_DOMAIN_SHUTOFF)
		return 0;
	return state == VIR_DOMAIN_PAUSED && vcpu_ns(dom) <= guest->spent_ns + RAN_NS ? 1 : -EEXIST;
}

static int end(virDomainPtr dom, const struct vm_act_guest *guest, struct vs_err *err)
{
	int r = still_ours(dom, guest, err);

	if (r == -EEXIST) {
		write_token(dom, VIR_DOMAIN_AFFECT_LIVE, NULL, NULL);
		return 1;
	}
	if (r <= 0)
		return r;
	if (virDomainDestroy(dom) == 0) {
		vm_fault();
		return 0;
	}
	r = vm_act_virterr(dom, err, "the domain, which was started to work on its disks, cannot be ended");
	return vm_act_active(dom, NULL) == 0 ? 0 : r;
}

int vm_act_end_paused(virConnectPtr conn, const struct vm_act_guest *guest, struct vs_err *err)
{
	virDomainPtr dom = virDomainLookupByUUIDString(conn, guest->uuid);
	int r;

	if (!dom) {
		r = vm_virterr_set(err, "domain %s", guest->uuid);
		return r == -ENOENT ? 0 : r;
	}
	r = end(dom, guest, err);
	virDomainFree(dom);
	return r;
}

/* ---------------------------------------------------------------- after a crash */

int vm_act_find_paused(virDomainPtr dom, struct vm_act_guest *out, struct vs_err *err)
{
	struct vm_act_guest guest = {0};
	char left[33];
	int active = vm_act_active(dom, err), r = 0;

	if (active < 0)
		return active;
	if (active && read_token(dom, VIR_DOMAIN_AFFECT_LIVE, guest.token))
		r = still_ours(dom, &guest, err);
	if (r == -EEXIST)
		r = write_token(dom, VIR_DOMAIN_AFFECT_LIVE, NULL, err);
	if (virDomainIsPersistent(dom) == 1 && read_token(dom, VIR_DOMAIN_AFFECT_CONFIG, left))
		write_token(dom, VIR_DOMAIN_AFFECT_CONFIG, NULL, NULL);
	if (r == 1) {
		virDomainGetUUIDString(dom, guest.uuid);
		guest.id = present_id(dom);
		*out = guest;
	}
	return r;
}
