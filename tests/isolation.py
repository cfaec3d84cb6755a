# SPDX-License-Identifier: Apache-2.0
"""Whether programs can be isolated on this machine, for the tests that run some."""

import os
from functools import cache

import pytest

from waggle_fsstore.config import ExecutionSettings
from waggle_fsstore.wiring import executor_of


@cache
def why_not_isolated() -> str:
    """Return why programs cannot be isolated here, "" if they can."""
    executor = executor_of(os.path.join(os.sep, "nonexistent"), "", ExecutionSettings())
    return "no executor" if executor is None else executor.why_unavailable()


needs_isolation = pytest.mark.skipif(bool(why_not_isolated()), reason=why_not_isolated())
