/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Between looking at the clock and entering the kernel there are some instructions, and a thread may be stopped between any two
 * of them (SIGSTOP, a freezer, a scheduler that has others to run). So they are a *restartable sequence* (rseq(2)): where the
 * thread is interrupted within it, however shortly, the kernel does not let it go on there but sends it to `abort`. The last instruction
 * of the sequence is the one that enters the kernel:
 *
 *	                 the sequence is announced
 *	start       ┌──► read the clock
 *	            │    too late? ────────────────────────────► ECANCELED
 *	            │    syscall            interrupted in here ─► abort: ECANCELED
 *	post commit └──►
 *
 * Within the call nothing can stop the thread before it has done its work: signals are looked at on the way out. That no system
 * call may be made *within* a sequence does not forbid this one: when it returns the thread stands behind the last instruction.
 *
 * What passes before the sequence the clock tells: the processor's time stamp counter, which one instruction reads. It must be one that
 * goes on while nobody runs, and is the same on all processors; where the kernel takes the time from it, it has seen to that.
 *
 * Glibc registers each thread for it from 2.35 on. The assembly is for x86-64; elsewhere it does not work, which is said.
 */
#include "at-once.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "qcow2/qcow2.h"

#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#define HAVE_RSEQ 1
#endif
#endif

#ifdef HAVE_RSEQ

/* 2^26 ticks: the clock of an x86-64 ticks 0.4 to 6 times in a nanosecond. */
#define LATE (UINT64_C(1) << 26)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool clock_is_steady;

static void look_at_clock(void)
{
	static const char *const steady[] = {"tsc\n", "kvm-clock\n", "hyperv_clocksource_tsc_page\n"};
	FILE *f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
	char name[64] = "";

	if (f && !fgets(name, sizeof(name), f))
		name[0] = '\0';
	if (f)
		fclose(f);
	for (size_t i = 0; i < VS_ARRAY_LEN(steady); i++)
		clock_is_steady |= !strcmp(name, steady[i]);
}

bool sf_at_once_works(void)
{
	const struct rseq *area = (const struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	pthread_once(&once, look_at_clock);
	return clock_is_steady && __rseq_size > 0 && (int32_t)area->cpu_id >= 0;
}

uint64_t sf_at_once_now(void)
{
	return __builtin_ia32_rdtsc();
}

ssize_t sf_at_once_splice(int from, int to, size_t len, uint64_t since)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	register unsigned long off_to __asm__("r10") = 0;
	register size_t n __asm__("r8") = len;
	register unsigned long flags __asm__("r9") = 0;
	long ret;

	_Static_assert(RSEQ_SIG == 0x53053053, "the signature below");
	__asm__ volatile(
		/* what the kernel is told: version, flags, start, length, abort (struct rseq_cs) */
		".pushsection __rseq_cs, \"aw\"\n\t"
		".balign 32\n\t"
		"3:\n\t"
		".long 0, 0\n\t"
		".quad 1f, 2f - 1f, 4f\n\t"
		".popsection\n\t"
		"leaq 3b(%%rip), %%rax\n\t"
		"movq %%rax, %c[cs](%[area])\n\t"
		"1:\n\t"
		"rdtsc\n\t"
		"shlq $32, %%rdx\n\t"
		"orq %%rdx, %%rax\n\t"
		"subq %[since], %%rax\n\t"
		"cmpq %[late], %%rax\n\t"
		"jae 5f\n\t"
		"movslq %[to], %%rdx\n\t"
		"movl %[splice], %%eax\n\t"
		"xorl %%esi, %%esi\n\t"
		"syscall\n\t"
		"2:\n\t"
		"jmp 6f\n\t"
		"5:\n\t"
		"movq %[cancelled], %%rax\n\t"
		"6:\n\t"
		/* the kernel looks for the signature before the place that it sends to: an instruction that is never met */
		".pushsection __rseq_failure, \"ax\"\n\t"
		".byte 0x0f, 0xb9, 0x3d\n\t"
		".long 0x53053053\n\t"
		"4:\n\t"
		"jmp 5b\n\t"
		".popsection\n\t"
		: "=&a"(ret), "+r"(n), "+r"(off_to), "+r"(flags)
		: "D"((long)from), [to] "r"(to), [area] "r"(area), [since] "r"(since), [cs] "i"(offsetof(struct rseq, rseq_cs)),
		  [late] "i"(LATE), [splice] "i"(SYS_splice), [cancelled] "i"(-ECANCELED)
		: "rcx", "rdx", "rsi", "r11", "cc", "memory");
	*(volatile uint64_t *)((char *)area + offsetof(struct rseq, rseq_cs)) = 0;
	return ret;
}

#else

bool sf_at_once_works(void)
{
	return false;
}

uint64_t sf_at_once_now(void)
{
	return 0;
}

ssize_t sf_at_once_splice(int from, int to, size_t len, uint64_t since)
{
	(void)from;
	(void)to;
	(void)len;
	(void)since;
	return -ECANCELED;
}

#endif
