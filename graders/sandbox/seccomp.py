"""The system calls that no sandboxed program may make, as a BPF program for x86_64 and aarch64.

A deny-list: what a program needs varies with torch and the C library, what it must not have does not. Refused with
EPERM: mounting, namespaces, tracing and reading other processes, kernel modules and keys, BPF, performance counters,
userfaultfd, io_uring, file handles, clocks, and memory that belongs to no process (System V segments, memfd), which a
watch of processes would not see. Sockets are AF_UNIX, TCP, UDP and the netlink that lists interfaces. `clone` may not
make namespaces; `clone3`, whose flags a filter can't read, does not exist, and the C library falls back to `clone`.
"""

from __future__ import annotations

import base64
import errno
import struct
from collections.abc import Mapping

# name: (x86_64, aarch64); None where the machine has no such call
REFUSED: Mapping[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "perf_event_open": (298, 241), "bpf": (321, 280),
    "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458), "open_tree_attr": (467, 467),
    "unshare": (272, 97), "setns": (308, 268), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116), "fanotify_init": (300, 262),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58), "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None),
    "_sysctl": (156, None), "sysfs": (139, None), "create_module": (174, None), "get_kernel_syms": (177, None),
    "query_module": (178, None), "shmget": (29, 194), "msgget": (68, 186), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "mbind": (237, 235), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "lsm_set_self_attr": (460, 460),
}  # fmt: skip
ABSENT: Mapping[str, tuple[int, int]] = {"clone3": (435, 435)}
SOCKET, CLONE, IOCTL, PERSONALITY = (41, 198), (56, 220), (16, 29), (135, 92)
MACHINES = (0xC000003E, 0xC00000B7)  # AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64
X32_BIT = 0x40000000
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
TCP_UDP_DEFAULT = (0, 6, 17)
TYPING_INTO_TERMINALS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
PLAIN_PERSONALITIES = (0, 0x0020000, 0xFFFFFFFF)

LOAD, JUMP, IF_EQUAL, IF_AT_LEAST, AND, RETURN = 0x20, 0x05, 0x15, 0x35, 0x54, 0x06
ALLOW, KILL, REFUSE, NO_SUCH = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
NUMBER, MACHINE = 0, 4
Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def program() -> str:
    """The filter for both machines, in base64: an array of struct sock_filter."""
    blocks = [_block(column) for column in range(len(MACHINES))]
    rows: list[Instruction] = [(LOAD, 0, 0, MACHINE)]
    head = 2 * len(MACHINES) + 1
    for i, machine in enumerate(MACHINES):
        after = head - (2 * i + 2) + sum(len(block) for block in blocks[:i])
        rows += [(IF_EQUAL, 0, 1, machine), (JUMP, 0, 0, after)]
    rows.append((RETURN, 0, 0, KILL))  # another machine's numbers, such as 32-bit calls on x86_64
    rows += [row for block in blocks for row in block]
    return base64.b64encode(b"".join(struct.pack("<HBBI", *row) for row in rows)).decode()


def _block(column: int) -> list[Instruction]:
    rows: list[Instruction] = [(LOAD, 0, 0, NUMBER)]
    if column == 0:
        rows += [(IF_AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, NO_SUCH)]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            rows += _if_call(number, [(RETURN, 0, 0, REFUSE)])
    rows += _if_call(ABSENT["clone3"][column], [(RETURN, 0, 0, NO_SUCH)])
    rows += _if_call(CLONE[column], [(LOAD, 0, 0, _argument(0)), (AND, 0, 0, NEW_NAMESPACES), *_only((0,))])
    rows += _if_call(PERSONALITY[column], [(LOAD, 0, 0, _argument(0)), *_only(PLAIN_PERSONALITIES)])
    typing: list[Instruction] = [(IF_EQUAL, 0, 1, request) for request in TYPING_INTO_TERMINALS]
    refusals = [part for test in typing for part in (test, (RETURN, 0, 0, REFUSE))]
    rows += _if_call(IOCTL[column], [(LOAD, 0, 0, _argument(1)), *refusals, (RETURN, 0, 0, ALLOW)])
    rows += _if_call(SOCKET[column], _sockets())
    return [*rows, (RETURN, 0, 0, ALLOW)]


def _sockets() -> list[Instruction]:
    protocol = (LOAD, 0, 0, _argument(2))
    inner = [protocol, *_only(TCP_UDP_DEFAULT)]
    rows: list[Instruction] = [(LOAD, 0, 0, _argument(0))]
    rows += _if_call(AF_UNIX, [(RETURN, 0, 0, ALLOW)])
    rows += _if_call(AF_INET, inner) + _if_call(AF_INET6, inner)
    return [*rows, *_if_call(AF_NETLINK, [protocol, *_only((0,))]), (RETURN, 0, 0, REFUSE)]


def _if_call(value: int, then: list[Instruction]) -> list[Instruction]:
    """`then`, which returns, when what was loaded equals `value`."""
    return [(IF_EQUAL, 0, len(then), value), *then]


def _only(values: tuple[int, ...]) -> list[Instruction]:
    """Allow these values of what was loaded and refuse others."""
    rows: list[Instruction] = []
    for value in values:
        rows += [(IF_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return [*rows, (RETURN, 0, 0, REFUSE)]


def _argument(index: int) -> int:
    """Where the low half of an argument stands in struct seccomp_data (both machines are little-endian)."""
    return 16 + 8 * index
