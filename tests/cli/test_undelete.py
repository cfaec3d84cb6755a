# SPDX-License-Identifier: Apache-2.0
"""The verb undelete."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.cli.cli_runner import run
from waggle_fsstore import EnvironmentService, FileStore, Settings
from waggle_fsstore.wiring import open_service


def expire(store: FileStore, service: EnvironmentService) -> tuple[str, Path]:
    """Return the id of an environment that expired, and the path of the file that it had."""
    created = service.create("shell")
    file = Path(service.locate(created), "data.csv")
    file.write_text("precious")
    store.update(created.id, lambda one: one.touch(datetime.now(UTC) - timedelta(days=1)))
    service._removal.destroy(created.id, lambda _: True, discard=False)
    assert not file.exists()
    return created.id, file


def test_undelete_brings_back_files(store: FileStore) -> None:
    """The files are there again, and the verb prints where; the id must not live."""
    with open_service(store, Settings()) as service:
        environment_id, file = expire(store, service)
    result = run("undelete", environment_id[:8])
    assert (result.exit_code, result.stdout) == (0, f"{file.parent}\n")
    assert file.read_text() == "precious"
    assert store.find_by_id(environment_id).is_running
    assert run("undelete", environment_id).exit_code == 4


def test_undelete_of_destroyed_environment_needs_record_only(store: FileStore) -> None:
    """Without files the verb says what is possible, and does it when asked to."""
    with open_service(store, Settings()) as service:
        environment_id = service.create("shell").id
        service.destroy(environment_id)
    result = run("undelete", environment_id)
    assert result.exit_code != 0
    assert "--record-only" in result.stderr
    assert store.count() == 0
    result = run("undelete", "--record-only", environment_id)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "only its record was brought back" in result.stderr
    assert store.find_by_id(environment_id).status == "error"
    assert run("undelete", "missing").exit_code == 3
