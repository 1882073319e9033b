/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * agent-port.c: the whole guest of a test with a guest agent. libvirt talks to an agent only when the guest says that it has opened
 * the port; this says so, and halts. What answers then is agent.py, on the host's side of the channel.
 *
 * A multiboot kernel (QEMU -kernel), 32 bits, no interrupts. It looks for the virtio console (legacy interface, virtio 1.0
 * section 4.1.4.8), makes a queue for the control channel, and puts one message in: port 1 is open (section 5.3.6.2).
 *
 *	gcc -m32 -ffreestanding -fno-inv -nostdlib -static -Wl,-Ttext=0x100000,--build-id=none agent-port.c
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define MULTIBOOT_MAGIC 0x1badb002

__asm__(".pushsection .text\n"
	".align 4\n"
	".long 0x1badb002, 0, -0x1badb002\n"
	".globl _start\n"
	"_start: mov $stack + 4096, %esp\n"
	"	call say_open\n"
	"1:	cli\n"
	"	hlt\n"
	"	jmp 1b\n"
	".popsection");

u8 stack[4096];

enum {
	VENDOR_CONSOLE = 0x10031af4, /* virtio console, transitional */
	F_MULTIPORT = 1 << 1,
	CONTROL_OUT = 3,  /* queues: port 0 in, out, control in, out, port 1 ... */
	PORT_OPEN = 6,

	/* registers of the legacy interface */
	GUEST_FEATURES = 4,
	QUEUE_PAGE = 8,
	QUEUE_SIZE = 12,
	QUEUE_SELECT = 14,
	QUEUE_NOTIFY = 16,
	STATUS = 18,
	STATUS_DRIVER = 3, /* acknowledged, driver */
	STATUS_OK = 7,
};

struct descriptor {
	u64 address;
	u32 len;
	u16 flags, next;
};

struct message {
	u32 port;
	u16 event, value;
};

#define QUEUE_MAX 1024 /* QEMU 7.2 has 32, QEMU 10 as many as this */

static u8 queue[8 * 4096] __attribute__((aligned(4096))); /* descriptors 4, available 1, used 3 */
static struct message message;

static void out8(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void out16(u16 port, u16 value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static void out32(u16 port, u32 value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static u16 in16(u16 port)
{
	u16 value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static u32 in32(u16 port)
{
	u32 value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static u32 config(u32 slot, u32 offset)
{
	out32(0xcf8, 0x80000000u | slot << 11 | offset);
	return in32(0xcfc);
}

static void open_port(u16 io)
{
	struct descriptor *descriptors = (struct descriptor *)queue;
	u16 *avail, size;

	out8(io + STATUS, STATUS_DRIVER);
	out32(io + GUEST_FEATURES, F_MULTIPORT);
	out16(io + QUEUE_SELECT, CONTROL_OUT);
	size = in16(io + QUEUE_SIZE);
	if (size > QUEUE_MAX)
		return;
	avail = (u16 *)(queue + sizeof(*descriptors) * size); /* flags, index, ring */
	out32(io + QUEUE_PAGE, (u32)queue / 4096);
	out8(io + STATUS, STATUS_OK);
	message.port = 1;
	message.event = PORT_OPEN;
	message.value = 1;
	descriptors[0].address = (u32)&message;
	descriptors[0].len = sizeof(message);
	avail[2] = 0;
	avail[1] = 1;
	__asm__ volatile("" : : : "memory");
	out16(io + QUEUE_NOTIFY, CONTROL_OUT);
}

void say_open(void);
void say_open(void)
{
	for (u32 slot = 0; slot < 32; slot++) {
		if (config(slot, 0) != VENDOR_CONSOLE)
			continue;
		out32(0xcf8, 0x80000000u | slot << 11 | 4);
		out32(0xcfc, in32(0xcfc) | 5); /* I/O, bus master */
		open_port(config(slot, 0x10) & 0xfffc);
	}
}
