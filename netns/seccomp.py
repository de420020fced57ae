"""What a network's process cannot ask of the kernel any more: seccomp(2), as a list of what it never needs.

    set_no_new_privs(); syscalls.seccomp_filter(program(os.uname().machine))

A list of what is allowed would be shorter in effect, but a libc or Python of tomorrow would stop in the middle. Denied
are calls by which one takes over a process, a machine or a namespace: to run programs, mount, enter namespaces, trace,
load code into the kernel. They answer EPERM. The kernel remembers which calls pass (since 5.11), so what the loop does
costs no more than without. The numbers are those of asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import struct

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter, linux/filter.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: a field of struct seccomp_data
_IF_EQUAL = 0x15
_IF_AT_LEAST = 0x35
_RETURN = 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | errno.EPERM
_KILL = 0x80000000  # whoever speaks another architecture's system calls
_X32 = 0x40000000  # asm/unistd.h: the first number of x32, which x86-64 knows besides its own

# By name: the numbers of x86-64 and of those that share one list (arm64, riscv64, loongarch64).
DENIED: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_ARCHITECTURES = {  # the value of AUDIT_ARCH_… in linux/audit.h, and which of the numbers
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
    "loongarch64": (0xC0000102, 1),
}


def program(machine: str) -> bytes | None:
    """The filter for uname(2)'s `machine`; None where its system calls are not known here."""
    found = _ARCHITECTURES.get(machine)
    if found is None:
        return None
    architecture, column = found
    tests = [(_IF_AT_LEAST, _X32)] if machine == "x86_64" else []
    tests += [(_IF_EQUAL, numbers[column]) for numbers in DENIED.values()]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *((test, len(tests) - place, 0, value) for place, (test, value) in enumerate(tests)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)
