# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the sandbox: each opens a way out of it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.domain.execution import Stop
from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.provider import executor, layout
from waggle_fsstore.provider.sandbox import (
    bubblewrap,
    find,
    leftovers,
    limits,
    output,
    process,
    sandbox,
    seccomp,
    user,
    view,
)
from waggle_fsstore.provider.sandbox.process import SandboxProcess
from waggle_fsstore.provider.sandbox.slots import Slots

# System calls

_SECCOMP = "tests/provider/sandbox/test_seccomp.py"


@fault(f"{_SECCOMP}::test_foreign_architecture_is_killed[x86_64-1073741827]")
def allow_foreign_architecture(patch: Patch) -> None:
    patch.setattr(seccomp, "_unless_equal", lambda *_: [])


@fault(f"{_SECCOMP}::test_x32_call_is_killed[{1 << 30}]")
def allow_x32_calls(patch: Patch) -> None:
    patch.setattr(seccomp, "_X32_BIT", 0)


@fault(f"{_SECCOMP}::test_x32_call_is_killed[521]")
def allow_x32_calls_without_their_bit(patch: Patch) -> None:
    patch.setattr(seccomp, "_X32_NUMBERS", range(512, 512))


@fault(f"{_SECCOMP}::test_terminal_request_fails[x86_64-21522]")
def compare_whole_ioctl_argument(patch: Patch) -> None:
    _replace_check(
        patch,
        "ioctl",
        lambda body: [
            seccomp._load(seccomp._ARGUMENTS + 8 + 4),
            *seccomp._unless_equal(0, seccomp._ALLOW),
            *body,
        ],
    )


@fault(f"{_SECCOMP}::test_denied_calls_fail[aarch64]")
def allow_keyrings(patch: Patch) -> None:
    patch.delitem(seccomp.NOT_PERMITTED, "keyctl")


@fault(f"{_SECCOMP}::test_kernel_denies_calls_of_program")
def allow_memory_without_owner(patch: Patch) -> None:
    patch.delitem(seccomp.NOT_IMPLEMENTED, "memfd_create")


@fault(f"{_SECCOMP}::test_clone_into_new_namespace_fails[aarch64-28]")
def allow_new_namespaces(patch: Patch) -> None:
    patch.setattr(seccomp, "_NAMESPACES", 0)


@fault(f"{_SECCOMP}::test_socket_of_other_family_fails[x86_64-socketpair]")
def check_families_of_single_sockets_only(patch: Patch) -> None:
    _replace_check(patch, "socketpair", lambda _: [seccomp._return(seccomp._ALLOW)])


@fault(f"{_SECCOMP}::test_packet_socket_by_its_old_name_fails[x86_64-0]")
def ignore_type_of_sockets(patch: Patch) -> None:
    patch.setattr(seccomp, "_SOCKET_TYPE_MASK", 0)


@fault(f"{_SECCOMP}::test_other_personality_fails[x86_64]")
def allow_any_personality(patch: Patch) -> None:
    _replace_check(patch, "personality", lambda _: [seccomp._return(seccomp._ALLOW)])


@fault(f"{_SECCOMP}::test_filter_of_downloads_denies_forks[x86_64]")
def allow_forks_of_downloads(patch: Patch) -> None:
    real = seccomp.filter_for
    patch.setattr(seccomp, "filter_for", lambda machine, **_: real(machine))


@fault(f"{_SECCOMP}::test_filter_of_downloads_denies_forks[aarch64]")
def deny_threads_of_downloads(patch: Patch) -> None:
    patch.setattr(seccomp, "_CLONE_THREAD", 0)


@fault(f"{_SECCOMP}::test_numbers_are_those_of_the_headers[aarch64]")
def use_numbers_of_other_machine(patch: Patch) -> None:
    patch.setitem(seccomp.NOT_PERMITTED, "mount", (165, 165))


def _replace_check(patch: Patch, call: str, changed: Any) -> None:
    """Change the body of a rule that depends on arguments."""
    real = seccomp._checks

    def checks(*, may_fork: bool) -> dict[str, list[bytes]]:
        bodies = real(may_fork=may_fork)
        return {**bodies, call: changed(bodies[call])}

    patch.setattr(seccomp, "_checks", checks)


# What a program sees, and may do

_ATTACKS = "tests/provider/sandbox/test_attacks.py"
_HELD = f"{_ATTACKS}::test_attack_is_held"
_LIMITED = f"{_ATTACKS}::test_program_is_held"
_ENDS = "tests/provider/sandbox/test_ends.py"


@fault(f"{_HELD}[loopback-of-host]")
def share_network(patch: Patch) -> None:
    _change_arguments(patch, lambda arguments: _without(arguments, "--unshare-net"))


@fault(f"{_HELD}[host-processes]")
def show_host_processes(patch: Patch) -> None:
    _change_arguments(
        patch, lambda arguments: _with(arguments, "--proc", ["--bind", "/proc", "/proc"], 2)
    )


@fault(f"{_HELD}[shared-memory-of-host]")
def share_memory_of_processes(patch: Patch) -> None:
    _change_arguments(patch, lambda arguments: _without(arguments, "--unshare-ipc"))


@fault(f"{_HELD}[time-and-name]")
def share_name_of_host(patch: Patch) -> None:
    def change(arguments: list[str]) -> list[str]:
        return _with(_without(arguments, "--unshare-uts"), "--hostname", [], 2)

    _change_arguments(patch, change)


@fault(f"{_HELD}[environment-of-server]")
def keep_environment_of_server(patch: Patch) -> None:
    _change_arguments(patch, lambda arguments: _without(arguments, "--clearenv"))
    _change_start(patch, lambda options: {**options, "env": dict(os.environ)})


@fault(f"{_HELD}[inherited-descriptors]")
def inherit_descriptors(patch: Patch) -> None:
    def change(options: dict[str, Any]) -> dict[str, Any]:
        for descriptor in options["pass_fds"]:
            os.set_inheritable(descriptor, True)
        return {**options, "pass_fds": (), "close_fds": False}

    _change_start(patch, change)


@fault(f"{_HELD}[credentials]")
def leave_capabilities(patch: Patch) -> None:
    _change_arguments(
        patch, lambda arguments: _with(arguments, "--cap-drop", ["--cap-add", "ALL"], 2)
    )


@fault(f"{_ATTACKS}::test_programs_are_not_root")
def run_as_root(patch: Patch) -> None:
    patch.setattr(find, "sandbox_user", lambda *_: (0, 0))


@fault(f"{_HELD}[namespaces]")
def allow_new_user_namespaces(patch: Patch) -> None:
    patch.delitem(seccomp.NOT_PERMITTED, "unshare")
    _change_arguments(patch, lambda arguments: _without(arguments, "--disable-userns"))


@fault(f"{_HELD}[keyrings]")
def install_no_filter(patch: Patch) -> None:
    allowed = seccomp._return(seccomp._ALLOW)
    patch.setattr(seccomp, "filter_for", lambda *_, **__: allowed)


@fault(f"{_HELD}[host-files]")
def show_whole_host_read_only(patch: Patch) -> None:
    real = view.base_arguments
    shown = ["--ro-bind", "/", "/host"]
    patch.setattr(view, "base_arguments", lambda programs: [*real(programs), *shown])


@fault(f"{_HELD}[other-environment]")
def mount_workspaces_root(patch: Patch) -> None:
    _change_tasks(patch, lambda home: {"/home/all": os.path.dirname(os.path.dirname(home))})


@fault(f"{_HELD}[dot-dot]")
def mount_marker(patch: Patch) -> None:
    _change_tasks(patch, lambda home: {"/home": os.path.dirname(home), SANDBOX_HOME: home})


@fault(f"{_HELD}[write-to-system]")
def leave_proc_writable(patch: Patch) -> None:
    def change(arguments: list[str]) -> list[str]:
        at = arguments.index("/proc", arguments.index("--remount-ro"))
        return arguments[: at - 1] + arguments[at + 1 :]

    _change_arguments(patch, change)


@fault(f"{_HELD}[device-nodes]")
def show_devices_of_host(patch: Patch) -> None:
    _change_arguments(
        patch, lambda arguments: _with(arguments, "--dev", ["--dev-bind", "/dev", "/dev"], 2)
    )


@fault(f"{_HELD}[limits-raised]")
def compete_with_server(patch: Patch) -> None:
    patch.setattr(process, "_subdue", nothing)


# Limits


@fault(f"{_LIMITED}[memory-shared]")
def skip_memory_watch(patch: Patch) -> None:
    patch.setattr(limits.MemoryWatch, "check", lambda _: Stop.NONE)


@fault(f"{_LIMITED}[memory-of-orphans]")
def count_memory_of_first_process_only(patch: Patch) -> None:
    patch.setattr(limits, "descendants", lambda pid: iter([pid]))


@fault(f"{_LIMITED}[memory-shared]")
def count_private_memory_only(patch: Patch) -> None:
    real = limits._sum_of
    patch.setattr(limits, "_sum_of", lambda path, *fields: real(path, fields[0]))
    patch.setattr(limits, "_shared_size", lambda _: 0)


@fault(f"{_LIMITED}[memory-shared-and-unmapped]")
def overlook_shared_memory_of_no_process(patch: Patch) -> None:
    patch.setattr(limits, "_shared_size", lambda _: 0)


@fault(f"{_LIMITED}[memory-in-page-tables]")
def overlook_page_tables(patch: Patch) -> None:
    real = limits._memory_of
    patch.setattr(limits, "_memory_of", lambda pid: real(pid)._replace(tables=0))


@fault(f"{_LIMITED}[memory-of-vfork]")
def count_memory_of_vfork_twice(patch: Patch) -> None:
    patch.setattr(limits, "_have_same_memory", lambda _one, _other: False)


@fault(f"{_LIMITED}[disk-in-unlinked-files]")
def overlook_files_without_name(patch: Patch) -> None:
    patch.setattr(limits.UnlinkedWatch, "_size", lambda _: 0)


@fault(f"{_LIMITED}[disk-allocated]")
def skip_disk_watch(patch: Patch) -> None:
    patch.setattr(limits.DiskWatch, "check", lambda _: Stop.NONE)


@fault(f"{_LIMITED}[past-deadline]")
def no_deadline(patch: Patch) -> None:
    real = SandboxProcess.run
    patch.setattr(SandboxProcess, "run", lambda self, _, *rest: real(self, 1e6, *rest))


@fault(f"{_LIMITED}[many-processes]")
def no_process_limit(patch: Patch) -> None:
    real = sandbox.limited
    patch.setattr(sandbox, "limited", lambda known: real(known._replace(processes=99_999)))


@fault(f"{_LIMITED}[endless-output]")
def keep_all_output(patch: Patch) -> None:
    real = output.Output.__init__
    patch.setattr(output.Output, "__init__", lambda self, _: real(self, 1 << 40))


@fault(f"{_LIMITED}[endless-errors]")
def read_endless_output(patch: Patch) -> None:
    patch.setattr(output.Streams, "size", 0)


# The end


@fault(f"{_LIMITED}[daemon-after-exit]")
def leave_daemons(patch: Patch) -> None:
    _leave_out_everywhere(patch, "--unshare-pid", "--die-with-parent")


@fault(f"{_ENDS}::test_failed_watch_leaves_no_program")
def leave_program_after_failure(patch: Patch) -> None:
    # Nothing waits for it either.
    patch.setattr(SandboxProcess, "_end", lambda self, _: setattr(self._process, "returncode", 0))


@fault(f"{_ENDS}::test_process_that_became_child_is_reaped")
def leave_zombies_to_first_process(patch: Patch) -> None:
    patch.setattr(process, "_reap", nothing)


@fault(f"{_ENDS}::test_destroyed_environment_stops_its_program")
def overlook_removal_while_program_runs(patch: Patch) -> None:
    patch.setattr(executor, "_identity", lambda _: (0, 0))


@fault(f"{_ENDS}::test_killed_server_leaves_no_program")
def outlive_server(patch: Patch) -> None:
    _leave_out_everywhere(patch, "--die-with-parent")


@fault(f"{_ENDS}::test_unfit_bubblewrap_is_explained[2541-setuid]")
def accept_setuid_bubblewrap(patch: Patch) -> None:
    patch.setattr(bubblewrap, "_why_unfit", lambda _: "")


@fault(f"{_ENDS}::test_probe_reveals_no_file_of_host[.venv/bin/python]")
def follow_links_of_agent(patch: Patch) -> None:
    patch.setattr(layout, "look_below", lambda *names: os.stat(os.path.join(*names)))


def _change_arguments(patch: Patch, changed: Callable[[list[str]], list[str]]) -> None:
    """Change the arguments of the sandbox that programs run in."""
    real = view.inner_arguments
    patch.setattr(view, "inner_arguments", lambda *args, **names: changed(real(*args, **names)))


def _leave_out_everywhere(patch: Patch, *options: str) -> None:
    """Leave options out of the arguments of both sandboxes, where root needs two."""
    real = view.outer_command

    def without(arguments: list[str]) -> list[str]:
        return [one for one in arguments if one not in options]

    def outer(*args: Any) -> tuple[list[str], dict[str, str]]:
        command, staged = real(*args)
        return without(command), staged

    patch.setattr(view, "outer_command", outer)
    _change_arguments(patch, without)


def _change_start(patch: Patch, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change how bubblewrap is started."""
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return real(command, **(changed(options) if "pass_fds" in options else options))

    patch.setattr(subprocess, "Popen", start)


def _change_tasks(patch: Patch, mounts: Callable[[str], dict[str, str]]) -> None:
    """Let programs see more, depending on where their home is on the host."""
    real = sandbox.Sandbox.run

    def run(self: sandbox.Sandbox, task: sandbox.Task, *arguments: Any) -> Any:
        if home := task.mounts.get(SANDBOX_HOME, ""):
            task = task._replace(mounts={**mounts(home), **task.mounts})
        return real(self, task, *arguments)

    patch.setattr(sandbox.Sandbox, "run", run)


def _with(arguments: list[str], option: str, new: list[str], length: int) -> list[str]:
    """Replace an option and what follows it, ``length`` arguments in all."""
    at = arguments.index(option)
    return [*arguments[:at], *new, *arguments[at + length :]]


def _without(arguments: list[str], option: str) -> list[str]:
    return [one for one in arguments if one != option]


# Slots

_SLOTS = "tests/provider/sandbox/test_slots.py"


@fault(f"{_SLOTS}::test_programs_are_admitted_in_order")
def admit_programs_in_any_order(patch: Patch) -> None:
    def why_not(self: Slots, number: int) -> str:
        name = self._waiting[number]
        is_last = number == max(self._waiting)
        is_full = self._is_full(name) or self._running.total() >= self._total
        return "" if is_last and not is_full else "full"

    patch.setattr(Slots, "_why_not", why_not)


@fault(f"{_SLOTS}::test_environment_has_few_slots")
def let_one_environment_take_all_slots(patch: Patch) -> None:
    patch.setattr(Slots, "_is_full", lambda *_: False)


@fault(f"{_SLOTS}::test_failed_program_gives_its_slot_back")
def lose_slot_of_failed_program(patch: Patch) -> None:
    @contextmanager
    def hold(self: Slots, name: str, wait_s: float, is_wanted: Callable[[], bool]) -> Iterator[str]:
        reason = self._enter(name, wait_s, is_wanted)
        yield reason
        self._leave(name)

    patch.setattr(Slots, "hold", hold)


# What programs may not see or own

_ISOLATION = "tests/provider/sandbox/test_isolation.py"


@fault(f"{_ISOLATION}::test_private_path_in_system_is_refused")
def check_only_interpreters_for_private_paths(patch: Patch) -> None:
    patch.setattr(view, "_SYSTEM_DIRS", ())
    real = view.is_below
    patch.setattr(view, "is_below", lambda path, top: top != "/usr" and real(path, top))


@fault(f"{_ISOLATION}::test_root_leaves_workspaces_of_other_user_alone")
def take_workspaces_of_other_user(patch: Patch) -> None:
    patch.setattr(user, "suppress", lambda *_: suppress(Exception))


@fault("tests/provider/sandbox/test_leftovers.py::test_leftovers_of_same_workspaces_are_ended")
def end_sandboxes_of_running_servers(patch: Patch) -> None:
    patch.setattr(leftovers, "_parent", lambda _: 1)
