/*
 * Lets User-Mode Linux of before 6.13 run on a processor with AMX.
 *
 * It keeps the processor state of its processes in 2,696 bytes (x86, up to AVX-512 and PKRU) and puts it
 * back by PTRACE_SETREGSET. A host whose processor has AMX takes nothing shorter than the whole of its
 * own layout, 11,008 bytes, and answers EFAULT: the kernel dies before its first process runs.
 *
 * Preloaded by tests/vm/run on such hosts. What User-Mode Linux puts back is laid at the beginning of
 * as much as the host wants; what lies behind that is said to be in its initial state. No process of
 * User-Mode Linux can have used it, since Linux gives AMX only to those that ask for it (arch_prctl).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

/* Where the bits of the components that are there are: "XSTATE_BV", Intel SDM volume 1, 13.4.2. */
#define COMPONENTS_AT 512
/* Those that come after the 2,696 bytes: AMX's configuration (17) and tiles (18). */
#define BEHIND ((uint64_t)3 << 17)
#define MOST 65536

typedef long ptrace_call(enum __ptrace_request, ...);

static long put_back(ptrace_call *real, pid_t pid, void *kind, const struct iovec *state)
{
	static char whole[MOST];
	static size_t length;
	struct iovec theirs = { whole, sizeof(whole) };
	uint64_t components;

	if (!length) {
		/* The host says it itself, of any process. */
		if (real(PTRACE_GETREGSET, pid, kind, &theirs) < 0)
			return -1;
		length = theirs.iov_len;
		memset(whole, 0, sizeof(whole));
	}
	if (state->iov_len >= length || state->iov_len < COMPONENTS_AT + sizeof(components))
		return real(PTRACE_SETREGSET, pid, kind, state);
	memcpy(whole, state->iov_base, state->iov_len);
	memcpy(&components, whole + COMPONENTS_AT, sizeof(components));
	components &= ~BEHIND;
	memcpy(whole + COMPONENTS_AT, &components, sizeof(components));
	theirs.iov_len = length;
	return real(PTRACE_SETREGSET, pid, kind, &theirs);
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_call *real;
	va_list rest;
	pid_t pid;
	void *address, *data;

	va_start(rest, request);
	pid = va_arg(rest, pid_t);
	address = va_arg(rest, void *);
	data = va_arg(rest, void *);
	va_end(rest);
	if (!real)
		real = (ptrace_call *)dlsym(RTLD_NEXT, "ptrace");
	if (!real) {
		errno = ENOSYS;
		return -1;
	}
	if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE)
		return put_back(real, pid, address, data);
	return real(request, pid, address, data);
}
