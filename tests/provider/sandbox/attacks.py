# SPDX-License-Identifier: Apache-2.0
"""The attacks from inside a sandbox that end in a moment: all of them run in one execution.

Each is a piece of Python that prints a line for each attempt: HELD or OPEN, what was attempted,
and what came of it. ``SEEN`` is for what is only recorded. ``FACTS`` says what a program should
not know: where the host has something worth an attack.
"""

from typing import Final, NamedTuple

from waggle_fsstore.provider.sandbox import seccomp


class Attack(NamedTuple):
    """What to attempt."""

    name: str
    code: str


# Copies, from which no planted fault can remove anything.
DENIED: Final = {"EPERM": dict(seccomp.NOT_PERMITTED), "ENOSYS": dict(seccomp.NOT_IMPLEMENTED)}

#: What each attack can use.
PRELUDE: Final = """
import ctypes, errno, json, os, platform, resource, shutil, signal, socket, stat, struct
import subprocess, sys, threading, time, traceback

HOME = "/home/sandbox"
HIGH_BIT = 1 << 32
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = libc.mmap.restype = ctypes.c_long
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]

def syscall(number, *arguments):
    number = number[COLUMN] if isinstance(number, (tuple, list)) else number
    if number is None:
        raise OSError(errno.ENOSYS, "not on this machine")
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = libc.syscall(ctypes.c_long(number), *passed)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result

def attempt(label, function, *wanted):
    try:
        result = function()
    except OSError as error:
        word = "OPEN" if wanted and error.errno not in wanted else "HELD"
        print(word, label, errno.errorcode.get(error.errno, error))
    else:
        print("OPEN", label, repr(result)[:99])

def check(label, is_held, detail=""):
    print("HELD" if is_held else "OPEN", label, str(detail)[:200])

def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=5, **options)

def fate(function):
    # The signal that ends a process that makes a call; 0 if none does.
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])

def text_of(path):
    with open(path, "rb") as file:
        return file.read()

def status_of(key, pid="self"):
    lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
    return lines[key].strip()

def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
"""

#: Runs ``ATTACKS``, pieces of code by name, each in a process of its own; prints what they print.
DRIVER: Final = """
DESCRIPTORS = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
PRINTED = {}
for name, code in ATTACKS.items():
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.closerange(3, 64)
        signal.alarm(20)
        try:
            exec(compile(code, name, "exec"), globals())
        except BaseException:
            print("OPEN: the attack failed", traceback.format_exc().replace("\\n", " | "))
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with open(reading, errors="replace") as file:
        PRINTED[name] = file.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        PRINTED[name].append(f"OPEN: the attack ended with {code}")
print(json.dumps(PRINTED))
"""

_FILES: Final = [
    Attack(
        "host-files",
        """
top = {"bin", "sbin", "lib", "lib32", "lib64", "usr", "etc", "proc", "dev", "run", "home", "tmp"}
top |= {path.split("/")[1] for path in FACTS["prefixes"]}
check("/", set(os.listdir("/")) <= top, set(os.listdir("/")) - top)
for path in [FACTS["secret"], FACTS["root"], "/etc/shadow", "/root/.ssh", "/root/.bash_history",
             "/var/run", "/var/log", "/boot", "/srv", "/opt/secret", "/run/docker.sock",
             "/run/dbus", "/run/user", "/run/systemd", "/tmp/.X11-unix"]:
    attempt(path if path.count("/") < 3 else "the secret", lambda: os.lstat(path), errno.ENOENT)
check("accounts", len(text_of("/etc/passwd").splitlines()) == 2)
check("homes", os.listdir("/home") == ["sandbox"], os.listdir("/home"))
check("run", os.listdir("/run") == ["waggle"], os.listdir("/run"))
""",
    ),
    Attack(
        "other-environment",
        """
for path in ["../other", "../../other/home/secret", FACTS["other"], "/waggle", "/waggle/0",
             "/waggle/1", "/newroot", "/oldroot"]:
    attempt(path[:20], lambda: os.lstat(path), errno.ENOENT)
found = [root for root, _, files in os.walk("/home") if "other-secret" in files]
check("search", not found, found)
""",
    ),
    Attack(
        "dot-dot",
        """
attempt("..", lambda: os.lstat(HOME + "/.." * 30 + FACTS["secret"]), errno.ENOENT)
check("the root", os.stat("/..").st_ino == os.stat("/").st_ino)
attempt("marker", lambda: os.lstat(HOME + "/../.waggle-workspace"), errno.ENOENT)
os.symlink(FACTS["secret"], "link-out")
attempt("link", lambda: open("link-out"), errno.ENOENT)
""",
    ),
    Attack(
        "roots-of-processes",
        """
for pid in pids():
    for place in "root", "cwd", "task/%d/root" % pid:
        attempt("secret", lambda: os.lstat(f"/proc/{pid}/{place}{FACTS['secret']}"),
                errno.ENOENT, errno.EACCES, errno.EPERM)
""",
    ),
    Attack(
        "environment-of-server",
        """
wanted = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "TMPDIR", "PYTHONUNBUFFERED",
          "PYTHONPATH", "PWD"}
check("names", set(os.environ) <= wanted, set(os.environ) - wanted)
for pid in pids():
    try:
        text = text_of(f"/proc/{pid}/environ")
    except OSError:
        continue
    check(f"environ", b"CANARY" not in text and FACTS["canary"].encode() not in text, text[:50])
""",
    ),
    Attack(
        "command-lines",
        """
for pid in pids():
    text = text_of(f"/proc/{pid}/cmdline")
    check("cmdline", FACTS["root"].encode() not in text and b"waggle-victim" not in text, text)
""",
    ),
    Attack(
        "mount-table",
        """
text = text_of("/proc/self/mountinfo").decode()
print("SEEN the path of the workspace" if FACTS["other"].rpartition("/")[0] in text
      else "SEEN no path of the host")
for line in text.splitlines():
    fields = line.split()
    target, options, kind = fields[4], fields[5].split(","), fields[fields.index("-") + 1]
    is_own = target in ("/tmp", HOME, "/dev/shm", "/dev/pts", "/dev/mqueue")
    is_device = target.startswith("/dev/") and kind in ("devtmpfs", "tmpfs")
    check(target, "nosuid" in options and (is_own or is_device or "ro" in options), options)
""",
    ),
    Attack(
        "inherited-descriptors",
        """
check("numbers", DESCRIPTORS in ([], [3]), DESCRIPTORS)
attempt("canary", lambda: os.read(FACTS["descriptor"], 9), errno.EBADF)
own = {os.readlink(f"/proc/1/fd/{n}") for n in (0, 1, 2)}
for number in os.listdir("/proc/1/fd"):
    path = f"/proc/1/fd/{number}"
    target = os.readlink(path)
    check("of the first process", target in own or "eventfd" in target or target == "/proc"
          or "signalfd" in target or target.startswith("/proc/"), target)
    if target not in own:
        attempt("open " + target, lambda: open(path, "r+b"))
""",
    ),
    Attack(
        "write-to-system",
        """
for path in ["/new", "/usr/new", "/usr/bin/new", "/etc/new", "/dev/new", "/proc/new", "/run/new",
             "/run/waggle/new", "/home/new", "/lib/new", "/usr/lib/new", "/etc/ssl/new"]:
    attempt(path, lambda: open(path, "w"))
for path in ["/etc/passwd", "/etc/hosts", "/run/waggle/main.py", "/usr/bin/env", "/bin/sh",
             sys.base_prefix + "/bin/python3", "/proc/self/mem", "/proc/self/oom_score_adj",
             "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups", "/proc/1/mem",
             "/proc/self/attr/current", "/proc/1/oom_score_adj", "/proc/self/clear_refs"]:
    attempt(path, lambda: open(path, "r+b"))
attempt("mkdir", lambda: os.mkdir("/new"), errno.EROFS)
attempt("unlink", lambda: os.unlink("/etc/passwd"))
attempt("chmod", lambda: os.chmod("/usr", 0o777))
attempt("utime", lambda: os.utime("/usr/bin/env"))
""",
    ),
    Attack(
        "first-process-executable",
        """
for path in "/proc/1/exe", "/proc/self/exe", f"/proc/{os.getppid()}/exe":
    attempt(path, lambda: open(path, "r+b"))
    attempt(path, lambda: os.truncate(path, 0))
""",
    ),
    Attack(
        "links-out-of-mounts",
        """
open("own", "w").close()
for path in "/etc/passwd", "/usr/bin/env", "/run/waggle/main.py", "/proc/1/exe":
    attempt(path, lambda: os.link(path, "linked", follow_symlinks=False))
attempt("home to tmp", lambda: os.link("own", "/tmp/own"), errno.EXDEV)
attempt("rename to /", lambda: os.rename("own", "/own"))
attempt("rename home", lambda: os.rename(HOME, "/home/other"))
attempt("rename tmp", lambda: os.rename("/tmp", HOME + "/tmp"))
attempt("remove home", lambda: os.rmdir(HOME))
attempt("link for home", lambda: os.symlink("/", "/home/sandbox2"))
result = run("rm", "-rf", "/tmp", "/usr/bin/env", "/etc", "/run", "/lib/os-release")
wanted = "/tmp", "/usr/bin/env", "/etc/passwd", "/run/waggle/main.py"
check("rm", all(map(os.path.exists, wanted)))
""",
    ),
    Attack(
        "setuid-files",
        """
shutil.copy("/bin/sh", "shell")
os.chmod("shell", 0o6755)
before = (os.getuid(), os.geteuid(), os.getgid(), os.getegid())
seen = run("./shell", "-c", "id -u; id -g").stdout.split()
check("own", seen == [str(os.getuid()), str(os.getgid())], seen)
for program in "su", "sudo", "mount", "pkexec", "passwd", "newuidmap":
    found = shutil.which(program)
    if found:
        result = run(found, "-c", "id -u", stdin=subprocess.DEVNULL)
        check(program, result.stdout.split() != ["0"], result.stdout)
attempt("capability of a file", lambda: os.setxattr("shell", "security.capability",
        struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)))
""",
    ),
    Attack(
        "device-nodes",
        """
for kind, numbers in (stat.S_IFBLK, (254, 0)), (stat.S_IFBLK, (8, 0)), (stat.S_IFCHR, (1, 1)):
    attempt("mknod", lambda: os.mknod("node", kind | 0o666, os.makedev(*numbers)), errno.EPERM)
wanted = {"null", "zero", "full", "random", "urandom", "tty", "console", "pts", "ptmx", "shm",
          "fd", "stdin", "stdout", "stderr", "core", "mqueue"}
check("/dev", set(os.listdir("/dev")) <= wanted, set(os.listdir("/dev")) - wanted)
for name in "vda", "sda", "kvm", "fuse", "mem", "kmsg", "net/tun", "dri", "vhost-vsock", "loop0":
    attempt(name, lambda: os.lstat("/dev/" + name), errno.ENOENT)
""",
    ),
]

_PROCESSES: Final = [
    Attack(
        "host-processes",
        """
found = pids()
check("number", len(found) <= 10, found)
text = text_of("/proc/1/cmdline")
check("first", b"bwrap" in text or b"-sandbox-" in text, text[:50])
check("own number", status_of("NSpid").split()[-1] == str(os.getpid()), status_of("NSpid"))
check("namespace", os.readlink("/proc/self/ns/pid") != FACTS["namespaces"]["pid"])
""",
    ),
    Attack(
        "kill-host-processes",
        """
victim = FACTS["victim"]
if victim not in pids():
    attempt("kill", lambda: os.kill(victim, signal.SIGKILL), errno.ESRCH)
    attempt("killpg", lambda: os.killpg(victim, signal.SIGKILL), errno.ESRCH)
    attempt("pidfd_open", lambda: os.pidfd_open(victim), errno.ESRCH)
os.kill(1, signal.SIGKILL)
os.kill(1, signal.SIGSTOP)
check("first process", 1 in pids() and status_of("State", 1)[0] in "SR", status_of("State", 1))
""",
    ),
    Attack(
        "other-memory",
        """
buffer = ctypes.create_string_buffer(64)
vector = struct.pack("QQ", ctypes.addressof(buffer), 8)
for pid in 1, os.getppid():
    attempt("attach", lambda: syscall((101, 117), 16, pid, 0, 0), errno.EPERM)
    attempt("seize", lambda: syscall((101, 117), 0x4206, pid, 0, 0), errno.EPERM)
    for number in (310, 270), (311, 271):
        attempt("vm", lambda: syscall(number, pid, vector, 1, vector, 1, 0), errno.EPERM)
    attempt("mem", lambda: open(f"/proc/{pid}/mem", "r+b"))
    attempt("getfd", lambda: syscall((438, 438), os.pidfd_open(pid), 1, 0), errno.EPERM)
attempt("traceme", lambda: syscall((101, 117), 0, 0, 0, 0), errno.EPERM)
""",
    ),
    Attack(
        "namespaces",
        """
flags = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000,
         "ipc": 0x8000000, "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}
for name, flag in flags.items():
    attempt("unshare " + name, lambda: syscall((272, 97), flag), errno.EPERM)
    for high in (0, HIGH_BIT) if name != "time" else ():
        attempt("clone", lambda: syscall((56, 220), flag | high | 17, 0, 0, 0, 0), errno.EPERM)
    attempt("setns", lambda: syscall((308, 268), os.open(f"/proc/1/ns/{name}", 0), 0), errno.EPERM)
    own = os.readlink(f"/proc/self/ns/{name}")
    check("own " + name, own != FACTS["namespaces"][name] or name in ("time", "cgroup"), own)
attempt("clone3", lambda: syscall((435, 435), bytes(88), 88), errno.ENOSYS)
check("unshare", run("unshare", "-Ur", "true").returncode != 0)
""",
    ),
    Attack(
        "credentials",
        """
for call in os.setuid, os.setgid, os.seteuid, os.setegid:
    attempt(call.__name__, lambda: call(0))
for call in os.setresuid, os.setresgid:
    attempt(call.__name__, lambda: call(0, 0, 0))
attempt("setgroups", lambda: os.setgroups([0]))
for other in 0, 1, 524288, 65534:
    attempt("chown", lambda: os.chown(HOME, other, -1))
for name in "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
    check(name, int(status_of(name), 16) == 0, status_of(name))
check("no new privileges", status_of("NoNewPrivs") == "1")
check("seccomp", status_of("Seccomp") == "2", status_of("Seccomp"))
uids = text_of("/proc/self/uid_map").split()
check("map", len(uids) == 3 and uids[0] == b"1000" and uids[2] == b"1", uids)
check("uid of files", os.stat(HOME).st_uid == 1000, os.stat(HOME).st_uid)
check("groups", set(os.getgroups()) <= {1000, 65534}, os.getgroups())
check("setgroups", text_of("/proc/self/setgroups").strip() == b"deny")
""",
    ),
    Attack(
        "limits-raised",
        """
def raise_limit(kind):
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        return "no limit"
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
    except ValueError as error:
        raise PermissionError(errno.EPERM, str(error))

for name in "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "NOFILE", "NPROC":
    attempt(name, lambda: raise_limit(getattr(resource, "RLIMIT_" + name)), errno.EPERM)
for name in "CORE", "MEMLOCK":
    check(name, resource.getrlimit(getattr(resource, "RLIMIT_" + name)) == (0, 0))
attempt("nice", lambda: os.nice(-30))
check("niceness", os.nice(0) >= 10, os.nice(0))
attempt("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("rr", lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)))
attempt("deadline", lambda: syscall((314, 274), 0,
        struct.pack("IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8), 0))
attempt("realtime io", lambda: syscall((251, 30), 1, 0, 1 << 13))
check("oom", int(text_of("/proc/self/oom_score_adj")) >= 900)
""",
    ),
    Attack(
        "core-dump",
        """
os.mkdir("core-dump")
os.chdir("core-dump")
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
check("signal", fate(lambda: os.kill(os.getpid(), signal.SIGABRT)) == signal.SIGABRT)
check("file", os.listdir(".") == [], os.listdir("."))
""",
    ),
]

_KERNEL: Final = [
    Attack(
        "keyrings",
        """
attempt("session", lambda: syscall((250, 219), 0, -3, 0), errno.EPERM)
attempt("search", lambda: syscall((250, 219), 10, -3, b"user", b"canary", 0), errno.EPERM)
attempt("add", lambda: syscall((248, 217), b"user", b"canary", b"x", 1, -3), errno.EPERM)
attempt("request", lambda: syscall((249, 218), b"user", b"canary", 0, 0), errno.EPERM)
""",
    ),
    Attack(
        "mounts",
        """
calls = {
    "tmpfs": ((165, 40), b"none", b"/tmp", b"tmpfs", 0, 0),
    "remount": ((165, 40), b"", b"/usr", b"", 32, 0),
    "remount bind": ((165, 40), b"", b"/usr", b"", 32 | 4096, 0),
    "bind": ((165, 40), b"/", HOME.encode(), b"", 4096, 0),
    "proc": ((165, 40), b"proc", b"/tmp", b"proc", 0, 0),
    "umount": ((166, 39), b"/etc/passwd", 2),
    "pivot_root": ((155, 41), b".", b"."),
    "chroot": ((161, 51), b"."),
    "fsopen": ((430, 430), b"tmpfs", 0),
    "open_tree": ((428, 428), -100, b"/", 1),
    "move_mount": ((429, 429), -100, b"/tmp", -100, HOME.encode(), 0),
    "mount_setattr": ((442, 442), -100, b"/usr", 0, bytes(32), 32),
}
for name, (number, *arguments) in calls.items():
    attempt(name, lambda: syscall(number, *arguments), errno.EPERM)
""",
    ),
    Attack(
        "denied-calls",
        """
for error, numbers in FACTS["denied"].items():
    for name, number in numbers.items():
        if number[COLUMN] is not None:
            attempt(name, lambda: syscall(number, 0, 0, 0, 0, 0, 0), getattr(errno, error))
""",
    ),
    Attack(
        "other-abis",
        """
if COLUMN == 0:
    check("x32", fate(lambda: syscall(0x40000000 + 39)) == signal.SIGSYS)
    check("x32 ioctl", fate(lambda: syscall(514, 0, 0x5412, b"x")) == signal.SIGSYS)
    page = libc.mmap(ctypes.c_long(0), ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
    ctypes.memmove(page, b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3", 8)  # getpid by int 0x80
    check("i386", fate(ctypes.CFUNCTYPE(ctypes.c_int)(page)) == signal.SIGSYS)
attempt("personality", lambda: syscall((135, 92), 0x0040000), errno.EPERM)
""",
    ),
    Attack(
        "kernel-settings",
        """
for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
             "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sys/fs/file-max",
             "/proc/sys/fs/binfmt_misc/register", "/proc/sys/kernel/hotplug", "/proc/irq",
             "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces",
             "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/sem", "/proc/sys/kernel/msgmax",
             "/proc/sys/fs/mqueue/queues_max", "/proc/sys/net/ipv4/ping_group_range"]:
    attempt(path, lambda: os.open(path, os.O_WRONLY))
""",
    ),
    Attack(
        "kernel-memory",
        """
for path in "/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/proc/kmsg":
    attempt(path, lambda: open(path, "rb").read(1))
attempt("syslog", lambda: syscall((103, 116), 3, ctypes.create_string_buffer(99), 99), errno.EPERM)
addresses = {line.split()[0] for line in text_of("/proc/kallsyms").splitlines()[:999]}
check("addresses", all(int(one, 16) == 0 for one in addresses), list(addresses)[:3])
for path in "/sys", "/sys/fs/cgroup", "/sys/kernel/debug", "/proc/scsi/scsi":
    attempt(path, lambda: os.listdir(path))
for line in text_of("/proc/self/mountinfo").decode().splitlines():
    check("mount", not {"sysfs", "cgroup", "cgroup2", "debugfs"} & set(line.split()), line)
""",
    ),
    Attack(
        "time-and-name",
        """
attempt("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0), errno.EPERM)
attempt("adjtimex", lambda: syscall((159, 171), bytes(208)), errno.EPERM)
attempt("hostname", lambda: socket.sethostname("x"), errno.EPERM)
check("name", socket.gethostname() == "sandbox", socket.gethostname())
""",
    ),
    Attack(
        "terminal",
        """
import fcntl, pty
attempt("/dev/tty", lambda: open("/dev/tty"), errno.ENXIO)
for number in (0, 1, 2):
    for request in 0x5412, 0x541C, 0x5423:
        attempt("ioctl", lambda: syscall((16, 29), number, request, b"x"), errno.EPERM)
        attempt("high", lambda: syscall((16, 29), number, request | HIGH_BIT, b"x"), errno.EPERM)
own = pty.openpty()[1]
attempt("own terminal", lambda: fcntl.ioctl(own, 0x5412, b"x"), errno.EPERM)
check("session", os.getsid(0) != 0 and os.getpgid(0) != 0, os.getsid(0))
""",
    ),
]

_NETWORK: Final = [
    Attack(
        "loopback-of-host",
        """
for address in "127.0.0.1", *FACTS["addresses"]:
    attempt(address, lambda: socket.create_connection((address, FACTS["port"]), 2))
attempt("::1", lambda: socket.create_connection(("::1", FACTS["port"]), 2))
""",
    ),
    Attack(
        "unix-sockets-of-host",
        """
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0" + FACTS["abstract"]),
        errno.ECONNREFUSED)
attempt("file", lambda: socket.socket(socket.AF_UNIX).connect(FACTS["socket"]), errno.ENOENT)
lines = text_of("/proc/net/unix").splitlines()[1:]
check("list", not any(FACTS["abstract"].encode() in line for line in lines), lines[:3])
""",
    ),
    Attack(
        "internet",
        """
for address in "169.254.169.254", "8.8.8.8", "10.0.0.1", "192.168.0.1":
    attempt(address, lambda: socket.create_connection((address, 80), 2), errno.ENETUNREACH)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
attempt("UDP", lambda: datagrams.sendto(b"x", ("8.8.8.8", 53)), errno.ENETUNREACH)
attempt("DNS", lambda: socket.getaddrinfo("example.com", 80))
attempt("broadcast", lambda: datagrams.sendto(b"x", ("255.255.255.255", 53)))
names = [name for _, name in socket.if_nameindex()]
check("interfaces", names == ["lo"], names)
""",
    ),
    Attack(
        "other-sockets",
        """
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), errno.EPERM)
attempt("raw 6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58), errno.EPERM)
attempt("ping", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1))
for name, family in {"packet": 17, "vsock": 40, "alg": 38, "bluetooth": 31, "key": 15, "can": 29,
                     "tipc": 30, "rds": 21, "xdp": 44, "smc": 43, "ax25": 3, "nfc": 39}.items():
    for kind in 1, 2, 3, 5:
        attempt(name, lambda: syscall((41, 198), family, kind, 0), errno.EAFNOSUPPORT)
    attempt(name + " pair", lambda: syscall((53, 199), family, 1, 0, bytes(8)), errno.EAFNOSUPPORT)
attempt("packet", lambda: syscall((41, 198), 2, 10, 768), errno.EAFNOSUPPORT)
import fcntl
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
attempt("address", lambda: fcntl.ioctl(plain, 0x8916, struct.pack("16sHHI8x", b"lo", 2, 0, 1)))
attempt("down", lambda: fcntl.ioctl(plain, 0x8914, struct.pack("16sH14x", b"lo", 0)))
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
netlink.send(struct.pack("IHHIIBxHiII", 32, 16, 0x605, 1, 0, 0, 0, 0, 0, 0) )
answer = netlink.recv(4096)
check("new interface", struct.unpack_from("i", answer, 16)[0] < 0, answer[:20])
""",
    ),
    Attack(
        "shared-memory-of-host",
        """
check("/dev/shm", os.listdir("/dev/shm") == [], os.listdir("/dev/shm"))
attempt("canary", lambda: os.lstat("/dev/shm/" + FACTS["shm"]), errno.ENOENT)
for number in (29, 194), (30, 196):
    attempt("SysV", lambda: syscall(number, FACTS["key"], 4096, 0), errno.ENOSYS)
for name in "shm", "sem", "msg":
    lines = text_of("/proc/sysvipc/" + name).splitlines()
    check("list of " + name, len(lines) == 1, lines)
attempt("message queue", lambda: syscall((240, 180), FACTS["queue"].encode(), 0, 0, 0))
""",
    ),
    Attack(
        "dev-shm-full",
        """
def fill():
    with open("/dev/shm/x", "wb", 0) as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
attempt("fill", fill, errno.ENOSPC)
os.unlink("/dev/shm/x")
""",
    ),
]

_AMOUNTS: Final = [
    Attack(
        "open-files",
        """
def open_many():
    kept = []
    while len(kept) < 5000:
        kept.append(os.open("/dev/null", 0))
attempt("open", open_many, errno.EMFILE)
""",
    ),
    Attack(
        "big-files",
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = open("big", "wb")
for size in 1 << 29, 1 << 40, 1 << 60:
    attempt("truncate", lambda: os.ftruncate(file.fileno(), size), errno.EFBIG)
    attempt("write", lambda: os.pwrite(file.fileno(), b"x", size), errno.EFBIG)
    attempt("allocate", lambda: os.posix_fallocate(file.fileno(), 0, size), errno.EFBIG)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
check("signal", fate(lambda: os.ftruncate(file.fileno(), 1 << 40)) == signal.SIGXFSZ)
""",
    ),
    Attack(
        "pipe-buffers",
        """
import fcntl
total = 0
for _ in range(450):
    reading, writing = os.pipe()
    try:
        total += fcntl.fcntl(writing, 1031, 1 << 20)
    except OSError:
        total += fcntl.fcntl(writing, 1032)
print("SEEN pipes may hold", total >> 20, "MiB")
""",
    ),
    Attack(
        "message-queues",
        """
size = 0
try:
    for number in range(500):
        syscall((240, 180), b"q%d" % number, os.O_CREAT | os.O_RDWR, 0o600,
                struct.pack("qqqqqqqq", 0, 10, 8192, 0, 0, 0, 0, 0))
        size += 10 * 8192
except OSError as error:
    print("HELD", errno.errorcode[error.errno], size)
else:
    print("OPEN", size)
""",
    ),
    Attack(
        "system-v-semaphores",
        """
def fill():
    return [syscall((64, 190), 0, 32000, 0o600) for _ in range(20)]
attempt("2 MiB of the kernel for each call", fill, errno.ENOSYS, errno.EPERM)
""",
    ),
    Attack(
        "system-v-messages",
        """
def fill():
    queue = syscall((68, 186), 0, 0o600)
    return syscall((69, 189), queue, struct.pack("l", 1) + bytes(8000), 8000, 0o4000)
attempt("16 KiB of the kernel for each queue, of 32000", fill, errno.ENOSYS, errno.EPERM)
""",
    ),
    Attack(
        "pages-in-pipes",
        """
reading, writing = os.pipe()
page = libc.mmap(ctypes.c_long(0), ctypes.c_size_t(1 << 22), 3, 0x22, -1, ctypes.c_long(0))
vector = struct.pack("QQ", page, 4096)
attempt("vmsplice", lambda: syscall((278, 75), writing, vector, 1, 0), errno.ENOSYS, errno.EPERM)
""",
    ),
    Attack(
        "aio-contexts",
        """
context = ctypes.c_long(0)
attempt("io_setup", lambda: syscall((206, 0), 60000, ctypes.byref(context)),
        errno.ENOSYS, errno.EPERM)
""",
    ),
]

ATTACKS: Final = [*_FILES, *_PROCESSES, *_KERNEL, *_NETWORK, *_AMOUNTS]
