# SPDX-License-Identifier: Apache-2.0
"""How many system calls a save makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from waggle_fsstore.store.fs.disk import Disk

# 20 of its own, and its share of a rotation. Where file times are not fine, two more: the old
# version of the document is read.
_MAX_CALLS_PER_SAVE: Final = 21

_SAVES: Final = """
import sys
from waggle_fsstore import FileStore
from waggle_fsstore.testing import make_environment
environment = make_environment()
with FileStore(sys.argv[1]) as store:
    for _ in range(int(sys.argv[2])):
        store.save(environment)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_save_makes_few_system_calls(tmp_path: Path) -> None:
    """A hundred more saves make at most a hundred times the calls of one; a rotation included."""
    few, many = (_calls(tmp_path / str(saves), saves) for saves in (50, 150))
    probe = Disk(durable=False)
    for number in range(8):
        probe.write_temp(str(tmp_path / f"probe-{number}"), b"probe")
    limit = _MAX_CALLS_PER_SAVE if probe.fine_devices else _MAX_CALLS_PER_SAVE + 2
    assert 0 < (many - few) / 100 <= limit


def _calls(root: Path, saves: int) -> int:
    counts = root.with_suffix(".counts")
    command = ["strace", "-f", "-c", "-U", "calls,name", "-o", str(counts)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    program = [sys.executable, "-c", _SAVES, str(root), str(saves)]
    subprocess.run([*command, *program], check=True, env=environment)
    (total,) = [line for line in counts.read_text().splitlines() if line.endswith(" total")]
    return int(total.split()[0])
