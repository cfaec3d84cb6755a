# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the service tests: services over both stores, and other processes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.fakes import World, owner
from waggle_fsstore import FileStore, MemoryStore
from waggle_fsstore.domain import process
from waggle_fsstore.domain.environment import Owner


def open_world(kind: str, directory: Path) -> World:
    store = MemoryStore() if kind == "memory" else FileStore(directory / "store", durable=False)
    return World(store, directory / "workspaces")


@pytest.fixture(params=["memory", "file"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Services over a MemoryStore, and over a FileStore."""
    world = open_world(request.param, tmp_path)
    yield world
    world.close()


@pytest.fixture
def file_world(tmp_path: Path) -> Iterator[World]:
    """Services over a FileStore, which other processes can open too."""
    world = open_world("file", tmp_path)
    yield world
    world.close()


@pytest.fixture
def live_owner() -> Iterator[Owner]:
    """Another process, which is alive during the test."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        yield owner(pid=child.pid, process_started=process._started(child.pid))
        child.kill()
