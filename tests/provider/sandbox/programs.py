# SPDX-License-Identifier: Apache-2.0
"""The attacks from inside a sandbox that need one for themselves: on limits, and on its end.

What comes of one is a text: ``exit N`` or ``stopped: REASON``. Each starts with ``ALIVE``, which
holds a pipe to the server open for as long as anything of the program runs.
"""

from typing import Final, NamedTuple

from waggle_fsstore.domain.environment import Runtime
from waggle_fsstore.provider.sandbox.limits import MIB, Limits

_LIMITS: Final = Limits(memory_bytes=96 * MIB, disk_bytes=24 * MIB, processes=64)
_SHORT_S: Final = 0.4
_LONG_S: Final = 20.0


class Program(NamedTuple):
    """A program, its limits, and what has to come of it.

    - ``output``: what it has to print.
    - ``repeat``: how often it is run; the last one counts.
    - ``needs_full``: it runs only with ``WAGGLE_TEST_ATTACKS=full``.
    """

    name: str
    code: str
    expected: str
    timeout_s: float = _LONG_S
    language: Runtime = Runtime.PYTHON
    limits: Limits = _LIMITS
    output: str = ""
    repeat: int = 1
    needs_full: bool = False


#: Opens the pipe, which all child processes inherit.
ALIVE: Final = {
    Runtime.PYTHON: (
        "import ctypes, mmap, os, signal, socket, subprocess, sys, threading, time\n"
        "os.set_inheritable(os.open('alive', os.O_WRONLY), True)\n"
        "MIB = 1 << 20\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.syscall.restype = libc.mmap.restype = ctypes.c_long\n"
    ),
    Runtime.SHELL: "exec 9>alive\n",
}

_ENDS: Final = [
    Program("exit-code", "exit 77", "exit 77", language=Runtime.SHELL),
    Program("killed-by-signal", "kill -9 $$", "exit 137", language=Runtime.SHELL),
    Program("false-exit-status", "exit 125", "exit 125", language=Runtime.SHELL),
    Program(
        "kill-all",
        "kill -9 -1; echo alone",
        "exit 0",
        language=Runtime.SHELL,
        output="alone\n",
    ),
    Program(
        "daemon-after-exit",
        """
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.closerange(0, 3)
            time.sleep(1000)
        os._exit(0)
subprocess.Popen(["nohup", "setsid", "sleep", "1000"], close_fds=False)
""",
        "exit 0",
    ),
    Program(
        "output-held-open",
        "sleep 1000 & setsid sleep 1000 & exit 7",
        "exit 7",
        language=Runtime.SHELL,
    ),
    Program(
        "output-closed",
        "exec >&- 2>&-; sleep 1000",
        "stopped: timeout",
        _SHORT_S,
        language=Runtime.SHELL,
    ),
    Program(
        "signals-ignored",
        """
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
os.fork()
time.sleep(1000)
""",
        "stopped: timeout",
        _SHORT_S,
    ),
    Program(
        "all-stopped",
        """
for _ in range(3):
    if os.fork() == 0:
        time.sleep(1000)
os.kill(-1, signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGSTOP)
""",
        "stopped: timeout",
        _SHORT_S,
    ),
    Program("past-deadline", "sleep 2", "stopped: timeout", _SHORT_S, Runtime.SHELL),
    Program("cpu-hog", "while :; do :; done", "stopped: timeout", _SHORT_S, Runtime.SHELL),
    Program(
        "cpu-time",
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "exit 137",
        limits=_LIMITS._replace(cpu_seconds=1),
        needs_full=True,
    ),
    Program(
        "forged-status",
        """
for process in "1", "self":
    for number in os.listdir(f"/proc/{process}/fd"):
        if int(number) > 2:
            try:
                with open(f"/proc/{process}/fd/{number}", "w") as file:
                    file.write('{ "exit-code": 0 }\\n{ "child-pid": 1 }\\n')
            except OSError:
                pass
for number in range(3, 1024):
    try:
        os.write(number, b'{ "exit-code": 0 }\\n')
    except OSError:
        pass
sys.exit(3)
""",
        "exit 3",
    ),
    Program(
        "not-utf-8",
        "sys.stdout.buffer.write(b'\\xff\\x1b[31m\\xc3')",
        "exit 0",
        output="\ufffd\x1b[31m\ufffd",
    ),
]

_COUNTS: Final = [
    Program(
        "many-processes",
        """
count = 0
try:
    while count < 500:
        if os.fork() == 0:
            time.sleep(1000)
        count += 1
except BlockingIOError:
    pass
print(count < 64)
""",
        "exit 0",
        limits=_LIMITS._replace(memory_bytes=512 * MIB),
        output="True\n",
    ),
    Program(
        "fork-bomb",
        """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        "stopped: timeout",
        _SHORT_S,
        limits=_LIMITS._replace(memory_bytes=512 * MIB),
    ),
    Program(
        "many-threads",
        """
count = 0
threading.stack_size(65536)
try:
    while count < 500:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(count < 64, flush=True)
os._exit(0)
""",
        "exit 0",
        limits=_LIMITS._replace(memory_bytes=512 * MIB),
        output="True\n",
    ),
]

_MEMORY: Final = [
    Program(
        "memory-of-one",
        "x = bytearray(3 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1\ntime.sleep(2)",
        "stopped: memory",
        limits=_LIMITS._replace(memory_bytes=512 * MIB),
        needs_full=True,
    ),
    Program(
        "memory-at-once",
        "x = b'x' * (200 << 20)\ntime.sleep(2)",
        "stopped: memory",
    ),
    Program(
        "memory-of-many",
        """
for _ in range(3):
    if os.fork() == 0: break
x = b"x" * (40 << 20)
time.sleep(2)
""",
        "stopped: memory",
    ),
    Program(
        "memory-of-orphans",
        """
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            x = b"x" * (40 << 20)
            time.sleep(2)
        os._exit(0)
time.sleep(2)
""",
        "stopped: memory",
    ),
    Program(
        "memory-of-thread-children",
        """
def work():
    if os.fork() == 0:
        x = b"x" * (150 << 20)
    time.sleep(2)
threading.Thread(target=work).start()
time.sleep(2)
""",
        "stopped: memory",
    ),
    Program(
        "memory-shared",
        "x = mmap.mmap(-1, 200 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\ntime.sleep(2)",
        "stopped: memory",
    ),
    Program(
        "memory-shared-by-fork",
        """
x = b"x" * (40 << 20)
for _ in range(5):
    if os.fork() == 0:
        time.sleep(0.3)
        os._exit(0)
for _ in range(5): os.wait()
""",
        "exit 0",
    ),
    Program(
        "memory-of-undumpable",
        "libc.prctl(4, 0)\nx = b'x' * (200 << 20)\ntime.sleep(2)",
        "stopped: memory",
    ),
    Program(
        "memory-data-limit",
        "try: mmap.mmap(-1, 8 << 30, flags=mmap.MAP_PRIVATE)\nexcept OSError: print('refused')",
        "exit 0",
        output="refused\n",
    ),
    Program(
        "memory-behind-ended-leader",
        """
def work():
    time.sleep(0.2)
    x = b"x" * (200 << 20)
    time.sleep(2)
    os._exit(0)
threading.Thread(target=work).start()
libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
""",
        "stopped: memory",
    ),
    Program(
        "memory-shared-and-unmapped",
        """
libc.prctl(4, 0)  # No other process of this user may look.
size = 200 * MIB
address = libc.mmap(ctypes.c_long(0), ctypes.c_size_t(size), 3, 0x21, -1, ctypes.c_long(0))
for offset in range(0, size, 4 * MIB):
    ctypes.memset(address + offset, 1, 4 * MIB)
    libc.madvise(ctypes.c_long(address + offset), ctypes.c_size_t(4 * MIB), 4)
time.sleep(2)
""",
        "stopped: memory",
    ),
    Program(
        "memory-shared-across-forks",
        """
libc.prctl(4, 0)  # No other process of this user may look.
size = 200 * MIB
address = libc.mmap(ctypes.c_long(0), ctypes.c_size_t(size), 3, 0x21, -1, ctypes.c_long(0))
for offset in range(0, size, 4 * MIB):
    ctypes.memset(address + offset, 1, 4 * MIB)
    if os.fork():  # The child has the pages too, but has not touched them.
        time.sleep(0 if offset else 2)
        os._exit(0)
time.sleep(2)
""",
        "stopped: memory",
    ),
    Program(
        "memory-in-page-tables",
        """
size, step = 100 << 30, 2 * MIB
address = libc.mmap(ctypes.c_long(0), ctypes.c_size_t(size), 1, 0x4022, -1, ctypes.c_long(0))
libc.madvise(ctypes.c_long(address), ctypes.c_size_t(size), 15)
for offset in range(0, size, step):
    ctypes.c_char.from_address(address + offset).value
time.sleep(2)
""",
        "stopped: memory",
    ),
    Program(
        "memory-of-vfork",
        """
x = b"x" * (60 << 20)
stack = ctypes.create_string_buffer(MIB)
top = ctypes.c_void_p((ctypes.addressof(stack) + MIB) & ~15)
pid = libc.clone(libc.sleep, top, 0x4000 | 0x100 | 17, ctypes.c_void_p(1))  # VFORK, VM, SIGCHLD
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
        "exit 0",
        output="0\n",
    ),
    Program(
        "memory-of-many-vforks",
        """
x = b"x" * (60 << 20)
for _ in range(300):
    subprocess.run(["/bin/true"])
""",
        "exit 0",
        needs_full=True,
    ),
]

_OUTPUT: Final = [
    Program(
        "endless-output",
        "exec cat /dev/zero",
        "stopped: output",
        language=Runtime.SHELL,
        limits=_LIMITS._replace(output_bytes=MIB, total_output_bytes=128 * MIB),
    ),
    Program(
        "endless-errors",
        "exec yes >&2",
        "stopped: output",
        3.0,
        language=Runtime.SHELL,
        limits=_LIMITS._replace(total_output_bytes=32 * MIB),
    ),
    Program(
        "output-of-ten-gigabytes",
        "head -c 10G /dev/zero",
        "exit 0",
        _LONG_S * 3,
        Runtime.SHELL,
        limits=_LIMITS._replace(total_output_bytes=1 << 40),
        needs_full=True,
    ),
]

_DISK: Final = [
    Program(
        "disk-full",
        "i=0; while :; do i=$((i + 1)); head -c 4M /dev/zero >f$i; done",
        "stopped: disk",
        language=Runtime.SHELL,
    ),
    Program(
        "disk-full-in-tmp",
        "i=0; while :; do i=$((i + 1)); head -c 4M /dev/zero >/tmp/f$i; done",
        "stopped: disk",
        language=Runtime.SHELL,
    ),
    Program(
        "disk-allocated",
        "for i in range(9): os.posix_fallocate(os.open(f'a{i}', 65), 0, 8 * MIB)\ntime.sleep(1)",
        "stopped: disk",
    ),
    Program(
        "disk-by-small-programs",
        "open('small-' + os.urandom(8).hex(), 'wb').write(bytes(2 * MIB))\ntime.sleep(0.06)",
        "stopped: disk",
        repeat=16,
    ),
    Program(
        "disk-in-unlinked-files",
        """
for i in range(8):
    file = open("unlinked", "wb")
    os.unlink("unlinked")
    os.dup(file.fileno())
    file.write(bytes(8 * MIB))
    file.flush()
time.sleep(0.3)
""",
        "stopped: disk",
    ),
    Program(
        "disk-in-unreadable-directory",
        """
os.mkdir("dark")
place = os.open("dark", os.O_RDONLY)
os.chmod("dark", 0)
os.chmod("dark", 0o300)
for i in range(8):
    with open(f"dark/{i}", "wb") as file:
        file.write(bytes(8 * MIB))
time.sleep(0.3)
""",
        "stopped: disk",
    ),
    Program(
        "disk-full-of-names",
        """
for i in range(20_000):
    os.close(os.open(f"n{i}", os.O_CREAT))
with open("x", "wb") as file: file.write(bytes(8 * MIB))
time.sleep(0.3)
""",
        "stopped: disk",
        limits=_LIMITS._replace(disk_bytes=16 * MIB),
    ),
    Program(
        "deep-directories",
        """
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
""",
        "exit 0",
    ),
    Program(
        "leftovers",
        """
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink("/etc/passwd", "link")
os.symlink("loop", "loop")
os.symlink("/proc/self/fd/0", "descriptor")
os.mkdir("closed")
os.chmod("closed", 0)
open(b"\\xff\\n", "w").close()
os.open("leased", os.O_CREAT)
""",
        "exit 0",
    ),
]

PROGRAMS: Final = [*_ENDS, *_COUNTS, *_MEMORY, *_OUTPUT, *_DISK]
