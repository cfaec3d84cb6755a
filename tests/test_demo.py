# SPDX-License-Identifier: Apache-2.0
"""The demo."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_demo(tmp_path: Path) -> None:
    """It runs to its end; what was acknowledged before the kill is stored, and can be repaired."""
    done = subprocess.run(
        ["sh", "docs/demo/demo.sh"],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    acknowledged, stored, repaired = (
        int(number) for number in re.findall(r"(?:acknowledged|stored)[^:\n]*: +(\d+)", done.stdout)
    )
    assert acknowledged >= 200
    assert stored in {acknowledged, acknowledged + 1}
    assert repaired in {stored, acknowledged + 1}  # Any write finishes what the dead one left.
    assert list(tmp_path.iterdir()) == []
