# SPDX-License-Identifier: Apache-2.0
"""Environments for tests."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from waggle_fsstore.domain.environment import (
    Capabilities,
    Environment,
    Idempotency,
    Owner,
    Runtime,
    Status,
)

_number = itertools.count(1)


def make_environment(**fields: Any) -> Environment:
    """Return a valid environment with every field set, and no two fields equal.

    A store that swaps, drops or shares a field therefore fails a comparison. ``fields``
    replace single values. Each call uses a new id, name, port and times. The times lie in the
    past, however many environments a run of tests makes.
    """
    n = next(_number)
    start = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC) + timedelta(minutes=n)
    values: dict[str, Any] = {
        "id": f"env-{n:04d}",
        "name": f"name {n} é",
        "runtime": Runtime.NODE,
        "status": Status.RUNNING,
        "ssh_port": 10_000 + n % 1_000,
        "created_at": start,
        "last_used": start + timedelta(minutes=7, microseconds=1),
        "timeout": timedelta(minutes=41, seconds=n % 50, milliseconds=250),
        "capabilities": Capabilities(
            detected_at=start + timedelta(seconds=3),
            path="/opt/bin:/usr/bin",
            python_command="python3",
            pip_command="pip3",
            node_command="nodejs",
            npm_command="npm",
            has_venv=True,
            has_apt_get=True,
        ),
        "labels": {"team": "red", "tier": "gold"},
        "provider": "local",
        "host_id": "3f2c9a10-5f0e-4f0b-8f0a-2f6f3a1d7c55",
        "owner": Owner(
            host="maja", boot_id="boot-5", pid=4242, process_started=987_654, pid_namespace=4_026
        ),
        "status_reason": "started manually",
        "discard_files": True,
        "idempotency": Idempotency(key=f"key-{n}", arguments=f"digest-{n}"),
        "extra": {"colour": ["amber", {"depth": 2.5}], "count": 3},
    }
    return Environment(**{**values, **fields})
