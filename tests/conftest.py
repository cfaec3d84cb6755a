# SPDX-License-Identifier: Apache-2.0
"""What all tests share: no test comes near the user's own store, and Hypothesis is calm."""

import gc
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings

from waggle_fsstore.store.read.inotify import DirectoryWatcher

# A project with plugins that these tests do not have: "make foreign" runs it.
collect_ignore = ["foreign"]

_test_numbers = count()

# Tests write thousands of stores, and need a file system, but none that survives them. Where the
# memory has room for them, they neither wait for a disk nor wear it out. --basetemp and these
# variables choose another place; pytest itself has looked at TMPDIR already.
_MEMORY: Final = "/dev/shm"  # noqa: S108  # A file system of its own on Linux.
_MIN_FREE_BYTES: Final = 2 << 30
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _MIN_FREE_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", os.environ.get("TMPDIR", _MEMORY))
    os.environ.setdefault("TMPDIR", _MEMORY)

# No deadline: a shared machine may stall at any time, and tests do not measure.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
# Where a failure is expected, the first one will do.
settings.register_profile(
    "faults",
    settings.get_profile("default"),
    phases=[Phase.explicit, Phase.generate],
    database=None,
)
settings.register_profile("torture", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return three workers for two processors: some tests wait for processes."""
    processors = os.cpu_count() or 1
    return processors + (processors + 1) // 2


def pytest_collection() -> None:
    """Collect no garbage among the modules and tests, of which none becomes garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave the modules and tests out of all later collections of garbage."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no worker begins one when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Point every default at directories of the test, and keep the log and the error hooks.

    Most tests need no directory, so none is made. A server that runs in this process would take
    over the log and the hooks.
    """
    directory = tmp_path_factory.getbasetemp() / f"defaults-{next(_test_numbers)}"
    monkeypatch.delenv("WAGGLE_STORE_PATH", raising=False)
    monkeypatch.setenv("WAGGLE_DATA_DIR", str(directory / "waggle-data"))
    monkeypatch.setenv("XDG_DATA_HOME", str(directory / "xdg-data"))
    monkeypatch.setenv("HOME", str(directory / "home"))
    monkeypatch.setattr("waggle_fsstore.server.log.configure", lambda *_: None)


@pytest.fixture
def needs_inotify(tmp_path: Path) -> None:
    """Skips a test where no notices of changes are to be had."""
    noticed = DirectoryWatcher.try_open(str(tmp_path))
    if noticed is None:
        pytest.skip("needs inotify, and one more of fs.inotify.max_user_instances")
    noticed.close()
