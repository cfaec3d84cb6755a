# SPDX-License-Identifier: Apache-2.0
"""The pytest fixtures, in a project that has installed the package."""

import itertools
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from waggle_fsstore import FileStore, MemoryStore
from waggle_fsstore.testing import factories

PROJECT = """
import os
import pytest
from waggle_fsstore import MemoryStore
from waggle_fsstore.testing import RepositoryContract

def test_store(waggle_store, make_environment, tmp_path):
    environment = make_environment(name="mine")
    waggle_store.save(environment)
    assert waggle_store.find_by_id(environment.id).name == "mine"
    assert waggle_store.path.is_relative_to(tmp_path)

@pytest.mark.parametrize("n", range(8))
def test_store_is_empty(waggle_store, waggle_memory_store, make_environment, n):
    assert waggle_store.count() == waggle_memory_store.count() == 0
    for store in (waggle_store, waggle_memory_store):
        store.save(make_environment(id="same"))
        assert store.count() == 1

class ForgetfulStore(MemoryStore):
    def delete(self, environment_id):
        pass

class TestForgetful(RepositoryContract):
    @pytest.fixture
    def repository(self):
        return ForgetfulStore()
"""

LAZY = """
import sys

def test_nothing_is_imported():
    modules = [name for name in sys.modules if name.startswith("waggle_fsstore.")]
    assert modules == ["waggle_fsstore.pytest_plugin"]
    assert not {"orjson", "filelock"} & set(sys.modules)
"""


def run(directory: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_project.py").write_text(source)
    pytest = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*pytest, "-W", "error", *options],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
    )


def test_fixtures_give_empty_stores(
    waggle_store: FileStore, waggle_memory_store: MemoryStore, tmp_path: Path
) -> None:
    """The stores are empty, and the FileStore is below ``tmp_path`` and never syncs."""
    assert waggle_store.count() == waggle_memory_store.count() == 0
    assert waggle_store.path.is_relative_to(tmp_path)
    assert waggle_store._writer._disk.durable is False


def test_fixtures_and_contracts_work_in_another_project(tmp_path: Path) -> None:
    """Fixtures come with the installation, work in parallel, and contracts explain failures."""
    done = run(tmp_path, PROJECT, "-n", "2")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert {line.split("::")[2].split()[0].partition("[")[0] for line in failed} == {
        "test_deleted_environment_is_gone",
        "test_delete_of_missing_id_raises",
        "test_count_follows_changes",
        "test_odd_ids_are_kept_apart",
        "test_invalid_ids_are_refused",
        "test_50_concurrent_threads_lose_nothing",
    }
    # Only where assertions are rewritten does pytest show both sides.
    assert "assert [0, 1, 2, 3, 3] == [0, 1, 2, 3, 2]" in done.stdout


def test_plugin_imports_nothing(tmp_path: Path) -> None:
    """Coverage that starts after the plugins still sees every line of the package."""
    done = run(tmp_path, LAZY, "-p", "no:xdist")
    assert done.returncode == 0, done.stdout


def test_times_lie_in_the_past_in_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sees of the age of an environment does not depend on how many came before."""
    monkeypatch.setattr(factories, "_number", itertools.count(100_000))
    environment = factories.make_environment()
    assert environment.last_used < datetime.now(UTC)
