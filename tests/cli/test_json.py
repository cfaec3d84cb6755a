# SPDX-License-Identifier: Apache-2.0
"""JSON: each verb prints its result as JSON if it is asked to."""

import json
from pathlib import Path

import pytest

from tests.cli.cli_runner import environment, run
from waggle_fsstore.store.file_store import FileStore

ONE: dict[str, object] = {"id": "alpha", "name": "name of alpha", "revision": 1, "runtime": "node"}

#: Each verb with its arguments, and what its JSON has.
RESULTS: dict[str, dict[str, object]] = {
    "create beta": {"name": "beta", "status": "creating", "revision": 2},
    "ls": ONE,
    "show al": ONE,
    "set al --name new": {**ONE, "name": "new", "revision": 2},
    "set al --label team=blue": ONE,
    "rm al": {"removed": ["alpha"]},
    "count": {"count": 1},
    "history al": {"seq": 1, "kind": "created", "environment_id": "alpha"},
    "events": {"seq": 1, "kind": "created", "environment_id": "alpha"},
    "history prune --keep-days 1": {"segments_removed": 0, "oldest": 1},
    "restore alpha --revision 1": {**ONE, "revision": 2},
    "info": {"documents": 1},
}


@pytest.mark.parametrize("verb", RESULTS)
def test_verb_prints_json(store: FileStore, verb: str) -> None:
    """The result is one JSON text, and nothing else is on stdout."""
    store.save(environment("alpha"))
    result = run(*verb.split(" "), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    printed = json.loads(result.stdout)
    [found] = printed if isinstance(printed, list) else [printed]
    assert found.items() >= RESULTS[verb].items()


def test_verbs_on_paths_print_json(store: FileStore, tmp_path: Path) -> None:
    """Paths are texts; a finding has its file."""
    store.save(environment("alpha"))
    copy = str(tmp_path / "copy")
    assert json.loads(run("where", "--json").stdout) == {"path": str(store.path)}
    made = json.loads(run("snapshot", copy, "--json").stdout)
    assert made == {"seq": 1, "count": 1, "path": copy}
    restored = json.loads(run("restore", copy, "--json").stdout)
    assert restored == {"created": 0, "updated": 0, "deleted": 0, "unchanged": 1}
    (store.path / "environments" / "notes.txt").touch()
    found = json.loads(run("fsck", "--json").stdout)
    assert found["path"] == str(store.path / "environments" / "notes.txt")


def test_json_of_rm_lists_what_was_removed(store: FileStore) -> None:
    """Beside a failure, it has the ids that are gone."""
    for name in ("a", "b"):
        store.save(environment(name))
    result = run("rm", "b", "missing", "a", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {"removed": ["b", "a"]}
