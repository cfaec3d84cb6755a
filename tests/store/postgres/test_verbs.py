# SPDX-License-Identifier: Apache-2.0
"""The command line on a store in PostgreSQL."""

import json
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
pytest.importorskip("click", reason="needs the extra 'cli'")

from tests.cli.cli_runner import run
from tests.store.postgres.servers import Server
from waggle_fsstore import FileStore
from waggle_fsstore.store.postgres import schema
from waggle_fsstore.testing import make_environment


@pytest.fixture
def url(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a store that does not exist yet, which is the default one."""
    monkeypatch.setenv("WAGGLE_STORE_PATH", server.url)
    # The servers of the tests have no fsync, and would be refused.
    monkeypatch.setattr("waggle_fsstore.store.postgres.writer.Writer._check", lambda *_: None)
    return server.url


def succeed(*arguments: str) -> str:
    """Run a verb that has to succeed, and return what it wrote."""
    result = run(*arguments)
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return result.stdout.strip()


@pytest.mark.usefixtures("url")
def test_verbs_work_on_database(tmp_path: Path) -> None:
    """Environments are created, changed, listed, copied, removed and brought back."""
    first = succeed("create", "one", "--label", "team=blue")
    second = succeed("create", "two", "--actor", "maja")
    succeed("set", first, "--status", "running", "--reason", "ready")
    assert json.loads(succeed("show", first[:8]))["status"] == "running"
    assert succeed("ls", "-q", "--label", "team=blue") == first
    assert succeed("count") == "2"
    assert succeed("snapshot", str(tmp_path / "copy")).endswith("2 environments as of change 3")
    succeed("rm", second)
    assert [line.split("\t")[2] for line in succeed("history", second).splitlines()] == [
        "KIND",
        "created",
        "deleted",
    ]
    assert len(succeed("events").splitlines()) == 5
    assert succeed("restore", str(tmp_path / "copy")) == (
        "1 created, 0 updated, 0 deleted, 1 unchanged"
    )
    assert succeed("restore", first, "--revision", "1") == "6"
    assert run("fsck").stderr == "0 errors; 0 warnings\n"
    assert json.loads(succeed("info", "--json"))["last_seq"] == 6


def test_place_is_told_without_credentials(url: str) -> None:
    """The place of the store is its hosts and database; no user and no password is shown."""
    secret = url.replace("waggle@", "waggle:hunter2@")
    assert succeed("where") == url.partition("host=")[2] + "/" + url.split("/")[3].partition("?")[0]
    for verb in (("where",), ("info",), ("ls",), ("create",)):
        assert "hunter2" not in run("--store", secret, *verb).output


def test_repair_reports_what_it_did(url: str, server: Server) -> None:
    """A damaged document is an error until fsck repairs it."""
    environment_id = succeed("create")
    server.execute("UPDATE waggle.document SET document = '{}'")
    checked = run("fsck")
    assert (checked.exit_code, f"{environment_id}.json" in checked.stdout) == (4, True)
    assert run("show", environment_id).exit_code == 6
    repaired = run("--store", url, "fsck", "--repair", "--reason", "disk was replaced")
    assert repaired.exit_code == 1
    assert repaired.stderr == "1 error, 1 of them repaired; 0 warnings\n"
    assert succeed("history", environment_id).endswith("disk was replaced")


def test_history_is_pruned_by_age_only(url: str) -> None:
    """Days are the only limit of a history in a database."""
    succeed("create")
    assert succeed("history", "prune", "--keep-days", "0") == (
        "1 change removed; the oldest change is 2"
    )
    for options in (("--keep-bytes", "1M"), ("--keep-days", "1", "--gzip"), ("--gzip",)):
        result = run("--store", url, "history", "prune", *options)
        assert (result.exit_code, "takes --keep-days" in result.stderr) == (2, True)


def test_script_is_printed(server: Server) -> None:
    """The verb schema prints the script that makes the tables, and needs no store."""
    assert succeed("schema") == schema.SCRIPT.strip()
    server.execute(json.loads(succeed("schema", "--json"))["sql"])


def test_script_upgrades_earlier_format() -> None:
    """With --from it prints what upgrades the tables, and refuses what no store has had."""
    assert succeed("schema", "--from", "1") == schema.upgrade_script(1).strip()
    result = run("schema", "--from", str(schema.FORMAT))
    assert (result.exit_code, "is no earlier format" in result.stderr) == (2, True)


@pytest.mark.usefixtures("url")
def test_hosts_are_listed(tmp_path: Path) -> None:
    """A store without servers has no hosts; one in files has none at any time."""
    assert succeed("host", "ls").split() == ["NAME", "STATE", "SEEN", "URL", "ID"]
    for verb in (("ls",), ("remove", "maja")):
        result = run("--store", str(tmp_path), "host", *verb)
        assert result.exit_code == 2
        assert "only a store in PostgreSQL has several hosts" in result.stderr


def test_store_in_files_moves_to_database_and_back(url: str, tmp_path: Path) -> None:
    """The command line copies a whole store with its history in both directions."""
    with FileStore(tmp_path / "files", durable=False) as store:
        for name in ("a", "b", "a"):
            store.save(make_environment(id=name))
    there = json.loads(succeed("copy", str(tmp_path / "files"), url, "--json"))
    back = json.loads(succeed("copy", url, str(tmp_path / "back"), "--json"))
    assert there == back
    assert there["changes"] == 3
    assert "waggle@" not in run("copy", url, url).stderr
