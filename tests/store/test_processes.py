# SPDX-License-Identifier: Apache-2.0
"""Several processes at work on one store, and processes that die."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from waggle_fsstore import Environment, FileStore
from waggle_fsstore.testing import make_environment

WRITERS = 4
STEPS = int(os.environ.get("WAGGLE_TEST_STEPS", "1000"))

WRITE = """
import sys
from waggle_fsstore import Environment, FileStore, Runtime
root, number, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = FileStore(root, durable=False, lock_timeout=60)
mine = Environment(id=f"writer-{number}", name="n", runtime=Runtime.SHELL)
print("ready", flush=True)
sys.stdin.readline()
for step in range(steps):
    if step % 2:
        store.update("shared", lambda copy: setattr(copy, "extra", {"n": copy.extra["n"] + 1}))
    else:
        mine.extra = {"n": step, "padding": "x" * (step % 50) * 40}
        store.save(mine)
"""

# Saves pairs of equal numbers, and says which ones were acknowledged.
ACKNOWLEDGE = """
import sys
from waggle_fsstore import Environment, FileStore, Runtime
store = FileStore(sys.argv[1])
environments = [Environment(id=name, name="n", runtime=Runtime.SHELL) for name in "abc"]
step = 0
while True:
    step += 1
    environment = environments[step % 3]
    environment.extra = {"n": step, "padding": "x" * (step * 997 % 20_000)}
    store.save(environment)
    sys.stdout.write(f"{environment.id} {step}\\n")
    sys.stdout.flush()
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.longest
def test_reader_sees_every_document_beside_four_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 processes x 1,000 saves and updates: a reader misses no document and sees none half."""
    # A scan waits for a writer that has to wait in the middle of a change, for however long:
    # after it, no document is older than what the scan has seen.
    monkeypatch.setattr("waggle_fsstore.store.read.view._PUBLISH_TIMEOUT_S", 60)
    root = tmp_path / "store"
    store = FileStore(root, durable=False, lock_timeout=60)
    shared = make_environment(id="shared", extra={"n": 0})
    constant = [make_environment(id=f"constant-{n}") for n in range(20)]
    mine = [make_environment(id=f"writer-{n}", extra={"n": -1}) for n in range(WRITERS)]
    store.save_all([shared, *constant, *mine])
    writers = [start(WRITE, root, number, STEPS) for number in range(WRITERS)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    scans = 0
    last: Counter[str] = Counter()
    while any(writer.poll() is None for writer in writers):
        found = {environment.id: environment for environment in store.find_all()}
        assert found.keys() == {environment.id for environment in [shared, *constant, *mine]}
        assert [found[environment.id] for environment in constant] == constant
        assert store.count() == len(found)
        assert store.find_by_id("shared").extra["n"] >= last["shared"]
        for environment in found.values():
            assert environment.revision >= last[f"revision of {environment.id}"]
            last[f"revision of {environment.id}"] = environment.revision
        last["shared"] = found["shared"].extra["n"]
        scans += 1
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert scans > 10
    assert store.find_by_id("shared").extra["n"] == WRITERS * (STEPS // 2)
    assert store.save(shared) == 1 + len([shared, *constant, *mine]) + WRITERS * STEPS


@pytest.mark.parametrize("number", range(8))
def test_killed_writer_loses_no_confirmed_save(tmp_path: Path, number: int) -> None:
    """After kill -9 at any moment every confirmed save is complete."""
    root = tmp_path / "store"
    writer = start(ACKNOWLEDGE, root)
    assert writer.stdout is not None
    acknowledged = {"a": 0, "b": 0, "c": 0}

    def note(line: str) -> None:
        name, _, step = line.partition(" ")
        if step.endswith("\n"):
            acknowledged[name] = int(step)

    for _ in range(5 + number):
        note(writer.stdout.readline())
    time.sleep(number * 0.0013)  # Spreads the kills over the steps of a save.
    writer.send_signal(signal.SIGKILL)
    for line in writer.stdout:
        note(line)
    writer.communicate()
    with FileStore(root) as store:
        found = {environment.id: environment.extra["n"] for environment in store.find_all()}
        last = max(acknowledged.values())
        for name, step in acknowledged.items():
            # One more may have been stored, and not yet said.
            assert found[name] in {step, last + 1}
        store.save(Environment(id="d", name="n", runtime="shell"))  # type: ignore[arg-type]
        assert store.count() == 4
        assert os.listdir(root / ".waggle" / "tmp") == []
