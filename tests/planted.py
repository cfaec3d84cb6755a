# SPDX-License-Identifier: Apache-2.0
"""The registry of planted faults: ways to break the package, and the test that notices each."""

import gc
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest
from hypothesis import settings

from tests import fork_server

Patch = pytest.MonkeyPatch


class Fault(NamedTuple):
    """How to plant it, and the test that has to turn red."""

    plant: Callable[[Patch], None]
    test: str


FAULTS: dict[str, Fault] = {}


def fault(test: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a way to plant a fault, and the test that has to turn red."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        assert plant.__name__ not in FAULTS, plant.__name__
        FAULTS[plant.__name__] = Fault(plant, test)
        return plant

    return register


def run(name: str, output: str, fork_server_address: str) -> None:
    """Plant a fault in this process, run its test, and end with pytest's exit code."""
    # What was imported before the fork stays: pytest collects garbage several times.
    gc.freeze()
    fork_server.use(fork_server_address)
    settings.load_profile("faults")
    with open(output, "w") as file, redirect_stdout(file), redirect_stderr(file):
        FAULTS[name].plant(pytest.MonkeyPatch())
        plugins = [f"-pno:{name}" for name in ("cacheprovider", "randomly", "xdist")]
        # The modules under test are imported already, too late to rewrite their assertions. A
        # native traceback spares a search of every module for the source. The base directory
        # is separate because concurrent runs delete old ones from the usual place.
        options = ["-q", "-x", "--color=no", "--assert=plain", "--tb=native"]
        code = pytest.main([*options, *plugins, f"--basetemp={output}.d", FAULTS[name].test])
    os._exit(code)


def nothing(*_: object, **__: object) -> None:
    """Stand in for a call that a fault leaves out."""
