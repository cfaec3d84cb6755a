# SPDX-License-Identifier: Apache-2.0
"""The demo runs, and its commands can be pasted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.isolation import why_not_isolated

ROOT = Path(__file__).parent.parent


@pytest.mark.longest
def test_demo_shows_what_survives(tmp_path: Path) -> None:
    """Every save acknowledged before a kill survives, and so do the environments of a server."""
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
    assert "about half a minute" in done.stdout.partition("\n")[0]
    _check_commands(done.stdout)
    acknowledged, stored, repaired = (
        int(number) for number in re.findall(r"(?:acknowledged|stored)[^:\n]*: +(\d+)", done.stdout)
    )
    assert acknowledged >= 200
    assert stored in {acknowledged, acknowledged + 1}
    assert repaired in {stored, acknowledged + 1}  # Any write finishes that of a dead writer.
    _check_server(done.stdout.partition("# Start a server")[2])
    assert list(tmp_path.iterdir()) == []


def _check_commands(shown: str) -> None:
    """Each printed command is one that a shell accepts, and that names no file of this run."""
    commands = re.findall(r"^\$ (.*)$", shown, re.MULTILINE)
    assert len(commands) > 30
    text = "\n".join(commands)
    assert "/store" not in text.replace("$directory/store", "")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def _check_server(shown: str) -> None:
    """Two environments survive a kill of the server; one is used, one is destroyed."""
    before, _, after = shown.partition("$ kill -9 ")
    created = re.findall(r'^ *"environment_id": "(.*)"', before, re.MULTILINE)
    listed = re.findall(r'^ {6}"environment_id": "(.*)"', after, re.MULTILINE)
    assert len(created) == 2
    assert sorted(listed) == sorted(created)
    assert '"content": "maja,31"' in after
    assert f"environment {created[1]} is destroyed" in after
    history = re.findall(r"^\d+\t\S+\t(.*)$", after, re.MULTILINE)
    # The server stores uses once a minute, and at its end: the machine decides.
    used = f"updated\t{created[0]}\trunning\ttouch\tin use"
    assert history[-1] == used
    history = [one for one in history if not one.startswith(used)]
    if not why_not_isolated():
        assert "----  --\\nmaja  31" in before
        installed = f"updated\t{created[0]}\trunning\tmcp:demo\tinstalled tabulate: exit code 0"
        assert history.pop(2) == installed
    assert history == [
        f"created\t{created[0]}\t- -> creating\tmcp:demo\tcreate was called",
        f"updated\t{created[0]}\tcreating -> running\tmcp:demo\tits workspace is ready",
        f"created\t{created[1]}\t- -> creating\tmcp:demo\tcreate was called",
        f"updated\t{created[1]}\tcreating -> running\tmcp:demo\tits workspace is ready",
        f"updated\t{created[1]}\trunning -> destroying\tmcp:demo\tno longer needed",
        f"deleted\t{created[1]}\tdestroying -> -\tmcp:demo\tno longer needed",
    ]
