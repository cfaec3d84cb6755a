# SPDX-License-Identifier: Apache-2.0
"""The seccomp filter denies what it is there to deny, and programs work under it."""

import errno
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from waggle_fsstore.provider.sandbox import seccomp

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS: Final = {
    "x86_64": ("x86_64-linux-gnu/asm/unistd_64.h", "asm/unistd_64.h"),
    "aarch64": ("asm-generic/unistd.h",),
}

# Copies, from which no fault can remove anything.
DENIED: Final = {
    **{(name, errno.EPERM): numbers for name, numbers in seccomp.NOT_PERMITTED.items()},
    **{(name, errno.ENOSYS): numbers for name, numbers in seccomp.NOT_IMPLEMENTED.items()},
}
NUMBERS: Final = {
    **{name: numbers for (name, _), numbers in DENIED.items()},
    **seccomp.CHECKED,
    **seccomp.FORKS,
}

# What becomes of a system call; else it fails with an error number.
ALLOWED: Final = 0
KILLED: Final = -1

HIGH_BIT: Final = 1 << 32
X32_BIT: Final = 0x4000_0000
TIOCSTI: Final = 0x5412
CLONE_NEWUSER: Final = 0x1000_0000
SIGCHLD: Final = 17
PTHREAD_FLAGS: Final = 0x3D0F00

AF_INET: Final = 2
SOCK_STREAM: Final = 1
SOCK_CLOEXEC: Final = 0o2000000

everywhere = pytest.mark.parametrize("machine", ARCHITECTURES)


def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("<HBBI", program))


def run(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Interpret a filter for a system call, and return the action."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    steps = instructions(program)
    at = accumulator = 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x45:
                at += if_true if accumulator & operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(hex(code))


def outcome(
    machine: str,
    call: str | int,
    *arguments: int,
    may_fork: bool = True,
    architecture: int | None = None,
) -> int:
    """Return what becomes of a system call: ``ALLOWED``, ``KILLED`` or an error number."""
    program = seccomp.filter_for(machine, may_fork=may_fork)
    assert program is not None
    if architecture is None:
        architecture = ARCHITECTURES[machine]
    number = call if isinstance(call, int) else number_of(machine, call)
    action = run(program, architecture, number, *arguments)
    if action >> 16 == 0x0005:
        return action & 0xFFFF
    return {0x7FFF_0000: ALLOWED, 0x8000_0000: KILLED}[action]


def number_of(machine: str, call: str) -> int:
    number = NUMBERS[call][list(ARCHITECTURES).index(machine)]
    assert number is not None
    return number


# Each rule, for both machines


@pytest.mark.parametrize("may_fork", [True, False])
@everywhere
def test_filter_is_a_program_that_the_kernel_accepts(machine: str, may_fork: bool) -> None:
    """The program is short enough, and each path through it ends with a return."""
    steps = instructions(seccomp.filter_for(machine, may_fork=may_fork) or b"")
    assert 0 < len(steps) < 4096
    assert steps[-1][0] == 0x06
    for at, (_, if_true, if_false, _) in enumerate(steps[:-1]):
        assert at + 1 + max(if_true, if_false) < len(steps)


@pytest.mark.parametrize("machine", ["", "i686", "armv7l", "aarch64_be", "arm64", "riscv64"])
def test_unknown_machine_has_no_filter(machine: str) -> None:
    """Where the numbers are not known, the caller learns that there is no filter."""
    assert seccomp.filter_for(machine) is None


@everywhere
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    """The tables agree with the headers of the kernel, as far as these go."""
    found = [path for name in HEADERS[machine] if (path := Path("/usr/include", name)).exists()]
    if not found:
        pytest.skip("needs the headers of the kernel")
    defined = re.findall(r"#define __NR_(\w+)\s+(\d+)", found[0].read_text())
    header = {name: int(number) for name, number in defined}
    column = list(ARCHITECTURES).index(machine)
    tables = (
        seccomp.NOT_PERMITTED,
        seccomp.NOT_IMPLEMENTED,
        seccomp.CHECKED,
        seccomp.FORKS,
    )
    ours = {name: numbers[column] for table in tables for name, numbers in table.items()}
    newer = {name for name, number in ours.items() if number and number > max(header.values())}
    assert {name: header.get(name) for name in ours if name not in newer} == {
        name: number for name, number in ours.items() if name not in newer
    }


@everywhere
def test_denied_calls_fail(machine: str) -> None:
    """Each system call of the tables fails with its error, for any arguments."""
    column = list(ARCHITECTURES).index(machine)
    for (name, error), numbers in DENIED.items():
        number = numbers[column]
        if number is not None:
            assert outcome(machine, number) == error, name
            assert outcome(machine, number, *[2**64 - 1] * 6) == error, name


@everywhere
def test_other_calls_are_allowed(machine: str) -> None:
    """What has no rule is allowed, also what a later kernel may add."""
    column = list(ARCHITECTURES).index(machine)
    with_rule = {numbers[column] for numbers in NUMBERS.values()}
    x32 = range(512, 548) if machine == "x86_64" else range(0)
    for number in {*range(1024)} - with_rule - {*x32}:
        assert outcome(machine, number) == ALLOWED, number
    for name, numbers in seccomp.FORKS.items():
        if numbers[column] is not None:
            assert outcome(machine, name) == ALLOWED


@pytest.mark.parametrize("architecture", [0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0])
@everywhere
def test_foreign_architecture_is_killed(machine: str, architecture: int) -> None:
    """A call by the numbers of another architecture, such as i386, ends the process."""
    expected = ALLOWED if architecture == ARCHITECTURES[machine] else KILLED
    assert outcome(machine, 1000, architecture=architecture) == expected


@pytest.mark.parametrize("number", [X32_BIT, X32_BIT | 39, X32_BIT | 521, 512, 521, 547])
def test_x32_call_is_killed(number: int) -> None:
    """The second set of numbers of x86_64 is no way around the rules, with or without its bit."""
    assert outcome("x86_64", number) == KILLED
    assert outcome("x86_64", 511) == outcome("x86_64", 548) == ALLOWED


@pytest.mark.parametrize("request_number", [TIOCSTI, 0x541C, 0x5423])
@everywhere
def test_terminal_request_fails(machine: str, request_number: int) -> None:
    """No program types into its terminal, also not with bits that the kernel ignores."""
    assert outcome(machine, "ioctl", 0, request_number) == errno.EPERM
    assert outcome(machine, "ioctl", 0, request_number | HIGH_BIT) == errno.EPERM
    assert outcome(machine, "ioctl", request_number, 0x5413) == ALLOWED


@pytest.mark.parametrize("bit", [17, 25, 26, 27, 28, 29, 30])
@everywhere
def test_clone_into_new_namespace_fails(machine: str, bit: int) -> None:
    """No flag of a namespace passes, also not with bits that the kernel ignores."""
    for flags in (1 << bit, 1 << bit | SIGCHLD, 1 << bit | PTHREAD_FLAGS, 1 << bit | HIGH_BIT):
        assert outcome(machine, "clone", flags) == errno.EPERM


@pytest.mark.parametrize("flags", [0, SIGCHLD, PTHREAD_FLAGS, 0x4100 | SIGCHLD, 0xFF])
@everywhere
def test_clone_in_same_namespaces_is_allowed(machine: str, flags: int) -> None:
    """Processes and threads start, with any signal at their end."""
    assert outcome(machine, "clone", flags) == ALLOWED


@pytest.mark.parametrize("call", ["socket", "socketpair"])
@everywhere
def test_socket_of_other_family_fails(machine: str, call: str) -> None:
    """Only the families that programs need are open, also not others with bits set above them."""
    allowed = {1, 2, 10, 16}
    for family in range(64):
        expected = ALLOWED if family in allowed else errno.EAFNOSUPPORT
        assert outcome(machine, call, family, SOCK_STREAM | SOCK_CLOEXEC) == expected, family
        assert outcome(machine, call, family | HIGH_BIT, SOCK_STREAM) == expected, family


@pytest.mark.parametrize("flags", [0, SOCK_CLOEXEC, HIGH_BIT])
@everywhere
def test_packet_socket_by_its_old_name_fails(machine: str, flags: int) -> None:
    """The type that makes the kernel replace AF_INET by AF_PACKET is denied."""
    assert outcome(machine, "socket", AF_INET, 10 | flags) == errno.EAFNOSUPPORT


@everywhere
def test_other_personality_fails(machine: str) -> None:
    """A program can ask for its personality, and keep the usual one."""
    for value in (0, 0xFFFF_FFFF, HIGH_BIT):
        assert outcome(machine, "personality", value) == ALLOWED
    for value in (0x8, 0x40000, 0x400000, 0xFFFF_FFFE, 0x40000 | HIGH_BIT):
        assert outcome(machine, "personality", value) == errno.EPERM


@everywhere
def test_filter_of_downloads_denies_forks(machine: str) -> None:
    """Without forks, only threads start, and a program can replace itself."""
    for flags in (0, SIGCHLD, 0x4100 | SIGCHLD, PTHREAD_FLAGS << 32):
        assert outcome(machine, "clone", flags, may_fork=False) == errno.EPERM
    assert outcome(machine, "clone", PTHREAD_FLAGS, may_fork=False) == ALLOWED
    new_user = PTHREAD_FLAGS | CLONE_NEWUSER
    assert outcome(machine, "clone", new_user, may_fork=False) == errno.EPERM
    if machine == "x86_64":
        assert outcome(machine, "fork", may_fork=False) == errno.EPERM
        assert outcome(machine, "vfork", may_fork=False) == errno.EPERM
    execve = {"x86_64": 59, "aarch64": 221}[machine]
    assert outcome(machine, execve, may_fork=False) == ALLOWED


# The kernel of this machine

MACHINE: Final = os.uname().machine

on_linux = pytest.mark.skipif(
    sys.platform != "linux" or MACHINE not in ARCHITECTURES, reason="needs a kernel with a filter"
)

# Installs the filter that is the first argument; the code of the test follows.
INSTALL: Final = """
import ctypes, json, os, resource, subprocess, sys, threading

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

def call(number, *arguments):
    done = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
    return ctypes.get_errno() if done == -1 else 0

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
code = bytes.fromhex(sys.argv.pop(1))
program = Program(len(code) // 8, code)
no, yes = ctypes.c_ulong(0), ctypes.c_ulong(1)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, yes, no, no, no) == 0
assert libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(FILTER), ctypes.byref(program), no, no) == 0
"""


def confined(code: str, *arguments: str, may_fork: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Python code under the filter."""
    program = seccomp.filter_for(MACHINE, may_fork=may_fork)
    assert program is not None
    command = [sys.executable, "-I", "-S", "-c", INSTALL + code, program.hex(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# Each does no harm on a machine that lets it pass.
ATTEMPTS: Final = {
    "keyctl": ((0, 2**64 - 3, 0), errno.EPERM),  # The id of the session keyring.
    "unshare": ((0,), errno.EPERM),
    "setns": ((2**64 - 1, 0), errno.EPERM),
    "ptrace": ((0,), errno.EPERM),  # PTRACE_TRACEME
    "mount": ((0, 0, 0, 0, 0), errno.EPERM),
    "bpf": ((2**64 - 1, 0, 0), errno.EPERM),
    "mlockall": ((0,), errno.EPERM),
    "personality": ((0x40000,), errno.EPERM),
    "clone": ((CLONE_NEWUSER | 0x10000, 0, 0, 0, 0), errno.EPERM),  # A thread without memory.
    "clone3": ((0, 0), errno.ENOSYS),
    "memfd_create": ((0, 0), errno.ENOSYS),
    "io_uring_setup": ((0, 0), errno.ENOSYS),
    "socket": ((40, SOCK_STREAM, 0), errno.EAFNOSUPPORT),  # AF_VSOCK
    "ioctl": ((2**64 - 1, TIOCSTI | HIGH_BIT, 0), errno.EPERM),
}


@on_linux
def test_kernel_denies_calls_of_program() -> None:
    """The kernel answers the system calls as the filter says."""
    attempts = {name: [number_of(MACHINE, name), *it] for name, (it, _) in ATTEMPTS.items()}
    code = "print(json.dumps({name: call(*it) for name, it in json.loads(sys.argv[1]).items()}))"
    done = confined(code, json.dumps(attempts))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: error for name, (_, error) in ATTEMPTS.items()}


@on_linux
@pytest.mark.skipif(MACHINE != "x86_64", reason="needs the x32 ABI")
def test_kernel_kills_program_that_uses_x32() -> None:
    """The whole process ends, which no handler of it can prevent."""
    done = confined(f"call({X32_BIT | 39}); print('alive')")
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")


@on_linux
def test_confined_python_works() -> None:
    """Threads, processes and sockets work as before."""
    code = """
import socket
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
print(subprocess.run(["echo", "process"], capture_output=True, text=True).stdout.strip())
if os.fork() == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
ours, theirs = socket.socketpair()
with socket.create_server(("127.0.0.1", 0)) as server, ours, theirs:
    with socket.create_connection(server.getsockname()):
        print("socket")
"""
    done = confined(code)
    assert (done.stdout, done.stderr) == ("thread\nprocess\n7\nsocket\n", "")


@on_linux
def test_confined_download_cannot_fork() -> None:
    """Where it may not fork, a program still starts threads, and can replace itself."""
    code = """
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
spawn = lambda: os.posix_spawn("/bin/sh", ["sh"], {})
for start in (os.fork, spawn, lambda: subprocess.run(["true"])):
    try:
        start()
    except PermissionError:
        print("denied", flush=True)
os.execvp("echo", ["echo", "replaced"])
"""
    done = confined(code, may_fork=False)
    assert (done.stdout, done.stderr) == ("thread\n" + "denied\n" * 3 + "replaced\n", "")


@on_linux
@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_confined_node_works() -> None:
    """The interpreter of JavaScript, which starts many threads, runs and starts a process."""
    script = "console.log(require('child_process').execSync('echo 1').toString().trim())"
    done = confined(f"os.execvp('node', ['node', '-e', {script!r}])")
    assert (done.stdout, done.stderr) == ("1\n", "")
