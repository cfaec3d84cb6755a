# SPDX-License-Identifier: Apache-2.0
"""The executor of this machine keeps the contract of executors, isolated and not."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.isolation import needs_isolation
from tests.provider.conftest import PYTHON, SHELL
from waggle_fsstore import (
    Environment,
    ExecutionUnavailableError,
    TooManyExecutionsError,
    WorkspaceGoneError,
)
from waggle_fsstore.config import ExecutionSettings
from waggle_fsstore.domain.execution import Stop
from waggle_fsstore.provider import executor as executor_module
from waggle_fsstore.provider.executor import LocalExecutor
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.sandbox.process import SetupError
from waggle_fsstore.provider.sandbox.slots import Slots
from waggle_fsstore.testing.executor import ExecutorContract, _run
from waggle_fsstore.wiring import executor_of


def _executor(root: Path, mode: str) -> LocalExecutor:
    made = executor_of(str(root), "", ExecutionSettings(mode=mode))
    assert made is not None
    return made


@needs_isolation
class TestIsolated(ExecutorContract):
    """Programs in a sandbox."""

    @pytest.fixture
    def executor(self, root: Path) -> Iterator[LocalExecutor]:
        executor = _executor(root, "isolated")
        yield executor
        executor.close()

    @pytest.fixture
    def environment(self, root: Path, executor: LocalExecutor) -> Environment:
        LocalProvider(root, executor=executor).create(PYTHON)
        return PYTHON


class TestUnisolated(ExecutorContract):
    """Programs as the user of the server."""

    needs_isolation = False

    @pytest.fixture
    def executor(self, root: Path) -> Iterator[LocalExecutor]:
        executor = _executor(root, "unisolated")
        yield executor
        executor.close()

    @pytest.fixture
    def environment(self, root: Path) -> Environment:
        LocalProvider(root).create(PYTHON)
        return PYTHON


@pytest.fixture
def executor(root: Path) -> Iterator[LocalExecutor]:
    executor = _executor(root, "isolated")
    LocalProvider(root, executor=executor).create(SHELL)
    yield executor
    executor.close()


@needs_isolation
def test_missing_workspace_is_the_error(executor: LocalExecutor, root: Path) -> None:
    """A workspace that is gone is an error of the provider, and nothing runs."""
    (root / "a").rename(root / "b")
    with pytest.raises(WorkspaceGoneError):
        _run(executor, SHELL, "true")


@needs_isolation
def test_programs_beyond_limit_are_refused(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While as many programs run as may, the next one waits, and is then refused."""
    monkeypatch.setattr(executor_module, "_SLOT_TIMEOUT_S", 0.05)
    executor._slots = Slots(1)
    with (
        executor._slots.hold(SHELL.id, 0, lambda: True),
        pytest.raises(TooManyExecutionsError, match="1 programs run in this environment"),
    ):
        _run(executor, SHELL, "true")
    assert _run(executor, SHELL, "echo again").stdout == "again\n"


def test_failed_check_is_repeated_after_a_minute(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that cannot isolate programs is asked again, but not at each call."""
    now = 0.0
    monkeypatch.setattr(executor_module, "monotonic", lambda: now)
    tries = []

    def find() -> executor_module.Runner:
        tries.append(now)
        raise LookupError("no bubblewrap")

    executor = LocalExecutor(root, find, provider="local-2")
    for _ in range(3):
        assert executor.why_unavailable() == "no bubblewrap"
        with pytest.raises(ExecutionUnavailableError, match="no bubblewrap"):
            executor.run_in_place(
                SHELL, ["true"], timeout=timedelta(seconds=1), stop=lambda: Stop.NONE
            )
    now = 61.0
    executor.why_unavailable()
    assert tries == [0.0, 61.0]


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("bwrap: Creating new namespace failed: No space left", "user namespaces are disabled"),
        ("bwrap: Creating new namespace failed: Operation not permitted", "as another user"),
        ("bwrap: No permissions to creating new namespace, likely", "not permitted"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation", "/proc is masked"),
        ("bwrap: pivot_root: Operation not permitted", "pivot_root is not permitted"),
        ("bwrap: Failed to make / slave: Permission denied", "mounts are not permitted"),
        ("bwrap: setting up uid map: Permission denied", "AppArmor"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation", "AppArmor"),
        ("bwrap: something else /with/a/path", "the log says why"),
    ],
)
def test_refusal_of_kernel_is_explained(root: Path, text: str, explanation: str) -> None:
    """What bubblewrap writes where it cannot work becomes a reason that an operator understands."""

    def find() -> executor_module.Runner:
        raise SetupError(text)

    reason = LocalExecutor(root, find, provider="local-2").why_unavailable()
    assert explanation in reason
    assert "/with/a/path" not in reason
