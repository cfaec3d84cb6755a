# SPDX-License-Identifier: Apache-2.0
"""The tests of the tests: each planted fault turns a test red."""

import multiprocessing
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests import fork_server, planted

_TESTS = Path(__file__).parent
_MODULES = [
    ".".join(path.relative_to(_TESTS.parent).with_suffix("").parts)
    for path in sorted(_TESTS.rglob("faults.py"))
]
for _module in _MODULES:
    import_module(_module)  # Registers its faults.

# Each run is a fresh process that has imported everything already.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        *_MODULES,
        *(plugin.module for plugin in entry_points(group="pytest11")),
        *(module for module in sys.modules if module.startswith("_pytest.")),
        "tests.conftest",
        "waggle_fsstore.testing",
    ]
)


@pytest.mark.parametrize("name", planted.FAULTS)
def test_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    """The guarantee that the fault breaks has a test that fails without it."""
    output = tmp_path / "output"
    arguments = (name, str(output), fork_server.address())
    process = _processes.Process(target=planted.run, args=arguments)
    process.start()
    process.join(timeout=300)
    process.kill()
    process.join()
    text = output.read_text()
    if process.exitcode == pytest.ExitCode.OK and " skipped" in text:
        pytest.skip(f"needs a test that was skipped here: {text.splitlines()[-1]}")
    assert process.exitcode == pytest.ExitCode.TESTS_FAILED, text
    assert "FAILED " in text
    assert "ERROR tests/" not in text
