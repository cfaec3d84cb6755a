# SPDX-License-Identifier: Apache-2.0
"""The system calls that programs of agents may not make, as a filter for ``bwrap --seccomp``.

A filter is a program of BPF instructions, ``struct sock_filter[]``, which the kernel runs for each
system call (seccomp(2)). It denies what leads out of the sandbox, what reaches parts of the kernel
that agents do not need, and memory that no limit counts. It allows all else: a list of what
compilers, databases and browsers need would be out of date with each C library.

The program is a sequence of rules, one for each system call. A rule compares the number of the
call, which is in the accumulator, and skips its body if that is another one. A body may load an
argument, because it always ends with a return: so each rule finds the number in the accumulator.
"""

import errno
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

#: System calls by name, with their numbers on x86_64 and aarch64. None: aarch64 does not have it.
Numbers = dict[str, tuple[int, int | None]]

#: Fail with EPERM.
NOT_PERMITTED: Final[Numbers] = {
    # Mounts and the root directory.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    # Namespaces. In a new user namespace, a program has all capabilities.
    "unshare": (272, 97),
    "setns": (308, 268),
    # Keyrings, which no namespace separates.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # Parts of the kernel that had many vulnerabilities.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    # Files by handle, also below directories that are not visible.
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    # The administration of the host.
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    # The placement of memory.
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mlock": (149, 228),
    "mlock2": (325, 284),
    "mlockall": (151, 230),
    # What only x86 has.
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "_sysctl": (156, None),
    "ustat": (136, None),
    "sysfs": (139, None),
}

#: Fail with ENOSYS, as if the kernel were older: programs then take another way.
NOT_IMPLEMENTED: Final[Numbers] = {
    # The flags are in memory, where no filter can see them. The C library falls back to clone.
    "clone3": (435, 435),
    # Its operations are system calls that no filter sees.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Memory that belongs to no process, so that the limits of processes do not count it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "vmsplice": (278, 75),
    "io_setup": (206, 0),
}

#: Depend on their arguments.
CHECKED: Final[Numbers] = {
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "personality": (135, 92),
}

#: Fail with EPERM where a program may not fork.
FORKS: Final[Numbers] = {
    "fork": (57, None),
    "vfork": (58, None),
}


class _Machine(NamedTuple):
    """How the kernel names the architecture, and the index of its numbers in ``Numbers``."""

    architecture: int
    column: int


# AUDIT_ARCH_* of linux/audit.h.
_X86_64: Final = _Machine(0xC000003E, 0)
_AARCH64: Final = _Machine(0xC00000B7, 1)
_MACHINES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}

# The x32 ABI: the same system calls with this bit set. Kernels before 5.4 accept some of its
# numbers without the bit too; no other system call has one of these.
_X32_BIT: Final = 0x4000_0000
_X32_NUMBERS: Final = range(512, 548)

# CLONE_NEW* of linux/sched.h. CLONE_NEWTIME is missing: clone takes its bit for a signal.
_NAMESPACES: Final = (
    0x0002_0000  # NEWNS
    | 0x0200_0000  # NEWCGROUP
    | 0x0400_0000  # NEWUTS
    | 0x0800_0000  # NEWIPC
    | 0x1000_0000  # NEWUSER
    | 0x2000_0000  # NEWPID
    | 0x4000_0000  # NEWNET
)
_CLONE_THREAD: Final = 0x0001_0000

# TIOCSTI and TIOCLINUX type into a terminal as if its user did; TIOCSETD loads kernel modules.
_TERMINAL_REQUESTS: Final = (0x5412, 0x541C, 0x5423)

# AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK; from the last, programs learn their addresses.
_FAMILIES: Final = (1, 2, 10, 16)
# With this type, AF_INET is another name for AF_PACKET. The other bits of a type are flags.
_SOCK_PACKET: Final = 10
_SOCKET_TYPE_MASK: Final = 0xF

# PER_LINUX, and the query for the current one. Others turn protections of memory off.
_PERSONALITIES: Final = (0, 0xFFFF_FFFF)

# struct sock_filter; both machines are little-endian.
_INSTRUCTION: Final = struct.Struct("<HBBI")
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_IF_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# Offsets in struct seccomp_data.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

# SECCOMP_RET_* of linux/seccomp.h.
_KILL_PROCESS: Final = 0x8000_0000
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_EPERM: Final = _ERRNO | errno.EPERM
_ENOSYS: Final = _ERRNO | errno.ENOSYS
_EAFNOSUPPORT: Final = _ERRNO | errno.EAFNOSUPPORT

_Program = list[bytes]


def filter_for(machine: str, *, may_fork: bool = True) -> bytes | None:
    """Return the filter for a machine as ``os.uname().machine`` names it; None for an unknown one.

    Without ``may_fork``, a program can start threads, and can replace itself by another program,
    as bwrap does after it has installed the filter. It cannot start other processes.
    """
    known = _MACHINES.get(machine)
    if known is None:
        return None
    program = _kill_other_abis(known)
    for numbers, body in _rules(may_fork=may_fork):
        number = numbers[known.column]
        if number is not None:
            program += [_instruction(_JUMP_IF_EQUAL, number, 0, len(body)), *body]
    program.append(_return(_ALLOW))
    return b"".join(program)


def _kill_other_abis(machine: _Machine) -> _Program:
    """Check that the numbers are those of the machine, and leave the number in the accumulator."""
    program = [
        _load(_ARCHITECTURE),
        *_unless_equal(machine.architecture, _KILL_PROCESS),
        _load(_NUMBER),
    ]
    if machine is _X86_64:
        program += [
            *_if_any_bit(_X32_BIT, _KILL_PROCESS),
            _instruction(_JUMP_IF_AT_LEAST, _X32_NUMBERS.start, 0, 2),
            _instruction(_JUMP_IF_AT_LEAST, _X32_NUMBERS.stop, 1, 0),
            _return(_KILL_PROCESS),
        ]
    return program


def _rules(*, may_fork: bool) -> Iterator[tuple[tuple[int, int | None], _Program]]:
    """Yield the numbers of each system call that has a rule, and the body of the rule.

    Those with arguments to check come first. For the others, the kernel remembers what it finds
    to be allowed always, and does not run the program again.
    """
    for name, body in _checks(may_fork=may_fork).items():
        yield CHECKED[name], body
    denied = [(NOT_PERMITTED, _EPERM), (NOT_IMPLEMENTED, _ENOSYS)]
    if not may_fork:
        denied.append((FORKS, _EPERM))
    for table, action in denied:
        for numbers in table.values():
            yield numbers, [_return(action)]


def _checks(*, may_fork: bool) -> dict[str, _Program]:
    socket = [
        _load_argument(1),
        _instruction(_AND, _SOCKET_TYPE_MASK),
        *_if_equal(_SOCK_PACKET, _EAFNOSUPPORT),
        _load_argument(0),
        *(step for family in _FAMILIES for step in _if_equal(family, _ALLOW)),
        _return(_EAFNOSUPPORT),
    ]
    return {
        "ioctl": [
            _load_argument(1),
            *(step for request in _TERMINAL_REQUESTS for step in _if_equal(request, _EPERM)),
            _return(_ALLOW),
        ],
        "socket": socket,
        "socketpair": socket,
        "clone": [
            _load_argument(0),
            *_if_any_bit(_NAMESPACES, _EPERM),
            *([] if may_fork else _unless_any_bit(_CLONE_THREAD, _EPERM)),
            _return(_ALLOW),
        ],
        "personality": [
            _load_argument(0),
            *(step for value in _PERSONALITIES for step in _if_equal(value, _ALLOW)),
            _return(_EPERM),
        ],
    }


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return an instruction; a jump skips as many instructions as the last arguments say."""
    return _INSTRUCTION.pack(code, if_true, if_false, operand)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, offset)


def _load_argument(index: int) -> bytes:
    """Load the low 32 bits, which are all that the kernel looks at in the checked arguments."""
    return _load(_ARGUMENTS + 8 * index)


def _return(action: int) -> bytes:
    return _instruction(_RETURN, action)


def _if_equal(value: int, action: int) -> _Program:
    return [_instruction(_JUMP_IF_EQUAL, value, 0, 1), _return(action)]


def _unless_equal(value: int, action: int) -> _Program:
    return [_instruction(_JUMP_IF_EQUAL, value, 1, 0), _return(action)]


def _if_any_bit(mask: int, action: int) -> _Program:
    return [_instruction(_JUMP_IF_ANY_BIT, mask, 0, 1), _return(action)]


def _unless_any_bit(mask: int, action: int) -> _Program:
    return [_instruction(_JUMP_IF_ANY_BIT, mask, 1, 0), _return(action)]
