# SPDX-License-Identifier: Apache-2.0
"""The port of an environment that is about to be stored: reserved before, unique after."""

from collections.abc import Iterator
from contextlib import contextmanager

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import NoFreePortError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.ports import Ports


@contextmanager
def reserved_port(
    ports: Ports, repository: TransactionalRepository, environment: Environment
) -> Iterator[None]:
    """Give a free port to an environment that is stored within the block."""
    try:
        port = ports.reserve()
    except NoFreePortError:
        ports.load(repository)  # Another process may have released some.
        port = ports.reserve()
    environment.ssh_port = port
    try:
        yield
    except BaseException:
        ports.release(port)
        raise
    ports.assign(port, environment.id)


def make_port_unique(
    ports: Ports, repository: TransactionalRepository, environment: Environment, revision: int
) -> None:
    """Change the port if another process stored the same one concurrently.

    Of two processes that stored the same port, the later one sees it, and any process that
    sees it changes its own.
    """
    while True:
        ports.catch_up(repository, revision)
        if not ports.is_shared(environment):
            return
        with reserved_port(ports, repository, environment):
            revision = transitions.set_port(
                repository, environment.id, environment.ssh_port
            ).revision
