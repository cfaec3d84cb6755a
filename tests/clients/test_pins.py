# SPDX-License-Identifier: Apache-2.0
"""The clients are the same ones each time."""

import json
from pathlib import Path

HERE = Path(__file__).parent


def test_packages_are_pinned() -> None:
    """Each package has one version: that of a lock file, or of the requirements."""
    requirements, packages = [*HERE.glob("*/requirements.txt")], [*HERE.glob("*/package.json")]
    assert (len(requirements), len(packages)) == (4, 2)
    for path in requirements:
        for line in path.read_text().splitlines():
            assert line.count("==") == 1, f"{path}: {line}"
    for path in packages:
        locked = json.loads(path.with_name("package-lock.json").read_text())["packages"]
        for name, version in json.loads(path.read_text())["dependencies"].items():
            assert locked[f"node_modules/{name}"]["version"] == version
