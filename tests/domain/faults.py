# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the domain: each breaks one thing that it promises."""

from tests.skipped_checks import skip_each_check
from waggle_fsstore.domain import environment

_COPIES = "tests/domain/test_environment.py::test_copy_is_what_the_constructor_makes"

skip_each_check(_COPIES, environment.Environment, "_is_normal")
skip_each_check(_COPIES, environment, "are_ascii")
