# SPDX-License-Identifier: Apache-2.0
"""The world that services are tested in: over both stores, and with other processes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.fakes import World, owner
from waggle_fsstore import FileStore, MemoryStore, TransactionalRepository
from waggle_fsstore.domain import process
from waggle_fsstore.domain.environment import Owner


def open_store(kind: str, folder: Path) -> TransactionalRepository:
    return MemoryStore() if kind == "memory" else FileStore(folder / "store", durable=False)


@pytest.fixture(params=["memory", "file"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Over a MemoryStore, and over a FileStore."""
    world = World(open_store(request.param, tmp_path), tmp_path / "workspaces")
    yield world
    world.close()


@pytest.fixture
def file_world(tmp_path: Path) -> Iterator[World]:
    """Over a FileStore, which other processes can open too."""
    world = World(open_store("file", tmp_path), tmp_path / "workspaces")
    yield world
    world.close()


@pytest.fixture
def living() -> Iterator[Owner]:
    """Another process, which lives for as long as the test."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        yield owner(pid=child.pid, process_started=process._started(child.pid))
        child.kill()
