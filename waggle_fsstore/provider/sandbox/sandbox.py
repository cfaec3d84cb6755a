# SPDX-License-Identifier: Apache-2.0
"""The sandbox: runs one program for one workspace, isolated by bubblewrap."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from waggle_fsstore.domain.execution import Execution, Stdio, Stop
from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.provider.sandbox import seccomp, view
from waggle_fsstore.provider.sandbox.bubblewrap import Bubblewrap
from waggle_fsstore.provider.sandbox.limits import Limits
from waggle_fsstore.provider.sandbox.process import Pipes, SandboxProcess
from waggle_fsstore.provider.sandbox.view import CODE_DIR, ETC_FILES, Programs

_BLOCK: Final = 512  # What POSIX shells count files in.
_KIB: Final = 1024

# The data segment of one process may be larger than what all may use: runtimes reserve much.
_DATA_FACTOR: Final = 8

# Limits of the kernel, set inside: a root without CAP_SYS_RESOURCE could not set them from outside.
_SET_LIMITS: Final = (
    "ulimit -c 0 && ulimit -t {cpu} && ulimit -d {data} && ulimit -f {file} && ulimit -n {open} && "
    "ulimit -l 0 && {{ ulimit -u {processes} 2>/dev/null || ulimit -p {processes}; }} && "
    'exec "$@"'
)


# Starts the program once the server says so, and never if the server has ended by then: while it
# sets up a sandbox, bubblewrap does not die with its parent yet.
_ASK: Final = (
    *("/bin/sh", "-c"),
    'echo ready && read -r answer && [ "$answer" = go ] && exec "$@" </dev/null',
    "sh",
)


class Task(NamedTuple):
    """A program to run, and what it sees.

    - ``command``: the program and its arguments, by their paths inside.
    - ``mounts``: the directories that it may change: source by target.
    - ``readable``: the directories and files that it may only read: source by target.
    - ``code``: files below ``/run/waggle``, by name.
    - ``variables``: environment variables in addition to those that every program has.
    - ``is_download``: it has the network, and cannot start another program.
    - ``stdio``: the descriptors that replace its standard streams.
    """

    command: Sequence[str]
    mounts: Mapping[str, str]
    readable: Mapping[str, str] = {}
    code: Mapping[str, bytes] = {}
    variables: Mapping[str, str] = {}
    is_download: bool = False
    stdio: Stdio = Stdio()


class Sandbox(NamedTuple):
    """How programs are isolated on this machine.

    - ``user``: the user and group that programs run as, ``None`` for those of this process.
    - ``has_network``: whether every program has the network of this machine.
    - ``name``: the name of its processes, by which a later server finds what is left of them.
    """

    bubblewrap: Bubblewrap
    programs: Programs
    user: tuple[int, int] | None
    has_network: bool = False
    name: str = "bwrap"

    def run(
        self, task: Task, limits: Limits, timeout_s: float, check: Callable[[], Stop]
    ) -> Execution:
        """Run a program, and return what came of it. ``check`` says why to stop it, if so.

        Raises :class:`SetupError` if it could not be started. Nothing of it runs afterwards.
        """
        with _Descriptors() as descriptors:
            # With streams of the caller, bubblewrap itself waits, and starts it at the end too.
            is_asked = task.stdio == Stdio()
            outer, command = self._command(task, limits, descriptors, is_asked=is_asked)
            wait = descriptors.wait_end
            process = SandboxProcess(
                [*outer, *command],
                [one for one in descriptors.theirs if one != wait or not is_asked],
                Pipes(descriptors.status, descriptors.hold),
                limits,
                len(outer) > 0,
                Stdio(stdin=wait) if is_asked else task.stdio,
                is_asked=is_asked,
                directory=next(iter(task.mounts.values()), ""),
                name=self.name,
            )
            handed = descriptors.hand_over()
        return process.run(timeout_s, check, handed)

    def _command(
        self, task: Task, limits: Limits, descriptors: "_Descriptors", *, is_asked: bool
    ) -> tuple[list[str], list[str]]:
        """Return the command that makes the outer sandbox, if any, and that of the inner one."""
        filtered = seccomp.filter_for(os.uname().machine, may_fork=not task.is_download)
        if filtered is None:
            raise ValueError(f"no seccomp filter for {os.uname().machine}")
        files = {path: descriptors.add(text) for path, text in self._files(task).items()}
        outer: list[str] = []
        places = {**task.readable, **task.mounts}
        if self.user is not None:
            outer, places = view.outer_command(
                self.bubblewrap, self.programs, places, self.user, descriptors.status_copy()
            )
        arguments = self._arguments(task, places, files)
        arguments += ["--seccomp", str(descriptors.add(filtered))]
        arguments += ["--json-status-fd", str(descriptors.status_end)]
        arguments += [] if is_asked else ["--block-fd", str(descriptors.wait_end)]
        packed = descriptors.add(b"".join(one.encode() + b"\0" for one in arguments))
        command = [self.bubblewrap.program, "--args", str(packed), "--"]
        return outer, [*command, *(_ASK if is_asked else ()), *limited(limits), *task.command]

    def _files(self, task: Task) -> dict[str, bytes]:
        """Return the contents of the files that a program sees, beside those of the system."""
        has_network = task.is_download or self.has_network
        code = {f"{CODE_DIR}/{name}": content for name, content in task.code.items()}
        return {**ETC_FILES, **(view.network_files() if has_network else {}), **code}

    def _arguments(
        self, task: Task, places: Mapping[str, str], files: Mapping[str, int]
    ) -> list[str]:
        """Return the arguments of bubblewrap for a task whose mounts come from ``places``."""
        return view.inner_arguments(
            self.programs,
            {target: places[target] for target in task.mounts},
            {target: places[target] for target in task.readable},
            files,
            {**variables(self.programs), **task.variables},
            has_network=task.is_download or self.has_network,
        )


def variables(programs: Programs) -> dict[str, str]:
    """Return the environment variables that every program has; none is the server's."""
    return {
        "PATH": programs.path,
        "HOME": SANDBOX_HOME,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": "/tmp",  # noqa: S108  # That of the sandbox.
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": SANDBOX_HOME,
    }


class _Descriptors:
    """The descriptors of one run. They are closed at the end of the block, unless handed over.

    - ``status``, ``hold``: the ends of the server, see :class:`Pipes`.
    - ``status_end``, ``wait_end``: the other ends, which are for bubblewrap.
    - ``theirs``: all that are for bubblewrap.
    """

    def __init__(self) -> None:
        self.status, self.status_end = os.pipe()
        try:
            self.wait_end, self.hold = os.pipe()
        except BaseException:
            os.close(self.status)
            os.close(self.status_end)
            raise
        self.theirs = [self.status_end, self.wait_end]
        self._is_handed_over = False

    def add(self, content: bytes) -> int:
        """Return a descriptor to read some content from."""
        self.theirs.append(_memory_file(content))
        return self.theirs[-1]

    def status_copy(self) -> int:
        """Return another descriptor of the pipe for the status."""
        self.theirs.append(os.dup(self.status_end))
        return self.theirs[-1]

    def hand_over(self) -> list[int]:
        """Return those of bubblewrap; from now on, the process closes all of them."""
        self._is_handed_over = True
        return self.theirs

    def __enter__(self) -> "_Descriptors":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_handed_over:
            for descriptor in [*self.theirs, self.status, self.hold]:
                os.close(descriptor)


def limited(limits: Limits) -> list[str]:
    """Return the command that sets the limits of the kernel, and becomes the command after it."""
    script = _SET_LIMITS.format(
        cpu=limits.cpu_seconds,
        data=limits.memory_bytes * _DATA_FACTOR // _KIB,
        file=limits.file_bytes // _BLOCK,
        open=limits.open_files,
        processes=limits.processes,
    )
    return ["/bin/sh", "-c", script, "sh"]


def _memory_file(content: bytes) -> int:
    """Return a descriptor to read some content from; it is in memory only."""
    descriptor = os.memfd_create("waggle")
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
