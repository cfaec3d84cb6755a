# SPDX-License-Identifier: Apache-2.0
"""The documents: the environments that every peer stores, and their changes."""

import random
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from waggle_fsstore import Capabilities, Environment, FileStore, Runtime, Status

_START: Final = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
_TEAMS: Final = ("research", "platform", "support")

_T = TypeVar("_T")


def make(number: int) -> Environment:
    """Return environment ``number``, which is the same in every run.

    Its document has about 860 bytes, the size of a probed environment with two labels.
    SQLite keeps rows of up to 1,002 bytes of such a table on one page. Larger rows would take
    it twice the time, which would make the comparison depend on a detail.
    """
    # Random ids, as the package generates, so that no peer gains from writing in order.
    source = random.Random(number)  # noqa: S311  # not a secret
    created = _START + timedelta(seconds=number, microseconds=source.randrange(1_000_000))
    return Environment(
        id=str(uuid.UUID(int=source.getrandbits(128), version=4)),
        name=f"data-analysis-{number}",
        runtime=Runtime.PYTHON,
        status=Status.RUNNING,
        ssh_port=22_000 + number % 40_000,
        created_at=created,
        last_used=created + timedelta(minutes=7, microseconds=1),
        capabilities=Capabilities(
            detected_at=created + timedelta(seconds=3, microseconds=1),
            path="/usr/local/bin:/usr/bin:/bin",
            python_command="python3",
            pip_command="pip3",
            has_venv=True,
            has_apt_get=True,
            is_root=True,
        ),
        labels={"project": f"forecast-{number % 17}", "team": _TEAMS[number % 3]},
        provider="local",
    )


def used(environment: Environment, times: int) -> Environment:
    """Return the environment after ``times`` uses: a different document each time."""
    changed = environment.copy()
    changed.last_used = environment.last_used + timedelta(milliseconds=times)
    return changed


def pick(items: list[_T], number: int, batch: int) -> list[_T]:
    """Return a batch of items, a different one for each number, spread over the list."""
    # The step has no factor in common with the sizes.
    return [items[(number * batch + index) * 7_919 % len(items)] for index in range(batch)]


def changed(environments: list[Environment], number: int, batch: int) -> list[Environment]:
    """Return changed versions of a batch of environments, never the same version twice."""
    first = 1 + number * batch
    return [used(old, first + index) for index, old in enumerate(pick(environments, number, batch))]


def fill(root: Path, size: int) -> None:
    """Create a store with one save, and add the other documents as files, by manual edits."""
    # Here, because versions.py runs this file in other versions too, which lack this module.
    from waggle_fsstore.store.format import codec

    with FileStore(root, durable=False) as store:
        store.save(make(0))
        for number in range(1, size):
            environment = make(number)
            store.document_path(environment.id).write_bytes(codec.encode(environment, number + 1))
