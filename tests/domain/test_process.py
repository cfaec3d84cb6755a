# SPDX-License-Identifier: Apache-2.0
"""Which process works on an environment, and whether it still runs."""

import builtins
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from waggle_fsstore.domain import process
from waggle_fsstore.domain.environment import Owner
from waggle_fsstore.domain.process import boot_id, is_gone, this_process

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    """A process that ends with the test at the latest."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        yield child
        child.kill()


def owner_of(child: Child) -> Owner:
    return replace(this_process(), pid=child.pid, process_started=process._started(child.pid) or 0)


def hide_proc(monkeypatch: pytest.MonkeyPatch, error: Callable[[str], OSError]) -> None:
    """As if a file of another process in /proc could not be opened."""
    real = builtins.open

    def hidden(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if str(path).startswith("/proc/"):
            raise error(str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(process, "open", hidden, raising=False)


def missing(path: str) -> OSError:
    return FileNotFoundError(errno.ENOENT, "No such file or directory", path)


def denied(path: str) -> OSError:
    return PermissionError(errno.EACCES, "Permission denied", path)


def test_this_process_is_running() -> None:
    """It is the same at each call, it is running, and the system confirms its start time."""
    me = this_process()
    assert me == this_process()
    assert me.pid == os.getpid()
    assert me.host
    assert len(me.boot_id) == 36
    with open("/proc/self/stat") as file:
        assert me.process_started == int(file.read().rpartition(") ")[2].split()[19])
    assert not is_gone(me)


def test_program_name_may_contain_parentheses() -> None:
    """A program name can contain blanks and parentheses, and look like the fields after it."""
    code = "open('/proc/self/comm', 'w').write(') Z 1 (a b'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        owner = owner_of(child)
        assert owner.process_started >= this_process().process_started
        assert not is_gone(owner)
        child.kill()


def test_child_is_gone_after_wait(child: Child) -> None:
    """A process is alive until its parent has waited for it, and gone for ever after that."""
    owner = owner_of(child)
    assert owner.process_started >= this_process().process_started
    assert not is_gone(owner)
    child.kill()
    child.wait()
    assert is_gone(owner)


def test_zombie_counts_as_gone(child: Child) -> None:
    """A process that ended and was not waited for does no more work."""
    owner = owner_of(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(owner)


def test_stopped_process_counts_as_alive(child: Child) -> None:
    """A stopped process may continue at any time."""
    owner = owner_of(child)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert not is_gone(owner)


def test_reused_pid_counts_as_gone(child: Child) -> None:
    """A process that started at another time is another process."""
    owner = owner_of(child)
    assert is_gone(replace(owner, process_started=owner.process_started - 1))
    assert is_gone(replace(owner, process_started=owner.process_started + 1))


def test_unknown_start_time_leaves_pid_to_decide(child: Child) -> None:
    """If the start time was not recorded, the process id alone decides."""
    assert not is_gone(replace(owner_of(child), process_started=0))
    child.kill()
    child.wait()
    assert is_gone(replace(this_process(), pid=child.pid, process_started=0))


def test_process_of_earlier_boot_counts_as_gone(child: Child) -> None:
    """A process from before a reboot is gone, even if its host name differs."""
    assert is_gone(replace(owner_of(child), boot_id="another"))
    assert is_gone(replace(owner_of(child), boot_id=""))
    assert is_gone(replace(owner_of(child), boot_id="another", host="another"))


def test_unreadable_boot_id_counts_no_process_as_gone(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without a free descriptor considers no process gone."""
    owner = owner_of(child)
    monkeypatch.setattr(process, "boot_id", lambda: "")
    assert not is_gone(owner)


def test_process_of_another_host_counts_as_alive() -> None:
    """A process in another container of this boot is invisible: it may be alive."""
    assert not is_gone(replace(this_process(), host="another", pid=2**22 + 1))


def test_process_of_another_pid_namespace_counts_as_alive(child: Child) -> None:
    """A process id of another PID namespace means nothing here, whatever the host is called."""
    owner = owner_of(child)
    child.kill()
    child.wait()
    assert is_gone(owner)
    assert not is_gone(replace(owner, pid_namespace=owner.pid_namespace + 1))


def test_process_without_recorded_namespace_is_judged_by_host(child: Child) -> None:
    """An owner that an older version recorded is judged as that version did."""
    owner = replace(owner_of(child), pid_namespace=0)
    assert not is_gone(owner)
    child.kill()
    child.wait()
    assert is_gone(owner)


def test_process_inside_a_new_pid_namespace_judges_none_outside() -> None:
    """From within a container with the same host name, a process outside counts as alive."""
    owner = replace(this_process(), pid=2**22 + 1)
    code = (
        "from waggle_fsstore.domain.environment import Owner\n"
        "from waggle_fsstore.domain.process import is_gone, this_process\n"
        f"print(this_process().pid_namespace != {owner.pid_namespace}, is_gone({owner!r}))"
    )
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    try:
        inside = subprocess.run(unshare, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "unshare failed" in inside.stderr or "Operation not permitted" in inside.stderr:
        pytest.skip("no PID namespace may be made here")
    assert inside.stdout.split() == ["True", "False"], inside.stderr


@pytest.mark.parametrize("pid", [0, 2**22 + 1, 2**31, 2**53 - 1])
def test_impossible_pids_count_as_gone(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are gone, with /proc and without."""
    assert is_gone(replace(this_process(), pid=pid))
    hide_proc(monkeypatch, missing)
    monkeypatch.setattr(process, "_BOOT_ID", "/nowhere/boot_id")
    assert is_gone(replace(this_process(), pid=pid))


def test_without_proc_pid_decides(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc, only the existence of the process id can be checked."""
    hide_proc(monkeypatch, missing)
    monkeypatch.setattr(process, "_BOOT_ID", "/nowhere/boot_id")
    me = this_process()
    assert (me.boot_id, me.process_started) == ("", 0)
    assert not is_gone(me)
    owner = replace(me, pid=child.pid)
    assert not is_gone(owner)
    child.kill()
    child.wait()
    assert is_gone(owner)


@pytest.mark.parametrize("error", [missing, denied])
def test_process_hidden_by_proc_counts_as_alive(
    child: Child, monkeypatch: pytest.MonkeyPatch, error: Callable[[str], OSError]
) -> None:
    """A living process of another user that /proc hides is not considered gone."""
    owner = owner_of(child)
    boot = boot_id()
    hide_proc(monkeypatch, error)
    monkeypatch.setattr(process, "boot_id", lambda: boot)
    assert not is_gone(owner)

    def deny(*_: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", deny)
        assert not is_gone(owner)


def test_process_that_ends_during_read_counts_as_gone(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system then reports that there is no such process, which is correct."""
    owner = owner_of(child)
    boot = boot_id()
    child.kill()
    child.wait()
    hide_proc(monkeypatch, lambda path: ProcessLookupError(errno.ESRCH, "No such process", path))
    monkeypatch.setattr(process, "boot_id", lambda: boot)
    assert is_gone(owner)


def test_check_sends_no_signal(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking whether a process runs does nothing to it, or to its process group."""
    sent: list[tuple[int, ...]] = []
    me = this_process()
    hide_proc(monkeypatch, missing)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *call: sent.append(call))
        patch.setattr(process, "boot_id", lambda: me.boot_id)
        for pid in (child.pid, 0):
            is_gone(replace(me, pid=pid))
    assert sent == [(child.pid, 0)]
