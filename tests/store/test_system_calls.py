# SPDX-License-Identifier: Apache-2.0
"""How many system calls a save makes."""

import shutil
from pathlib import Path
from typing import Final

import pytest

from benchmarks import counts

# 20 of its own, and its share of a rotation.
_MAX_CALLS_PER_SAVE: Final = 21


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_save_makes_few_system_calls(tmp_path: Path) -> None:
    """A hundred more saves make at most a hundred times the calls of one; a rotation included."""
    assert 0 < counts.per_call(counts.system_calls, "save", tmp_path) <= _MAX_CALLS_PER_SAVE
