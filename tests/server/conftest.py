# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the server tests: a store, a service over it, and a server over that."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.server import MCPServer

from waggle_fsstore import EnvironmentService, FileStore
from waggle_fsstore.config import Settings
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.wiring import open_service


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers, which a server that fails to start in this process replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the path of the store, which does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[FileStore]:
    with FileStore(root, durable=False) as store:
        yield store


@pytest.fixture
def service(store: FileStore) -> Iterator[EnvironmentService]:
    service = open_service(store, Settings.from_env({}))
    yield service
    service.close()


@pytest.fixture
def server(service: EnvironmentService) -> MCPServer[Any]:
    return make_server(service)
