# SPDX-License-Identifier: Apache-2.0
"""The texts of errors that are stored and shown to clients."""

import pytest

from tests.domain.test_errors import EXAMPLES
from waggle_fsstore import CapacityError, LockTimeoutError, ProviderError, StoreClosedError
from waggle_fsstore.service.error_text import reason_of

SYSTEM: list[BaseException] = [
    OSError(28, "No space left on device", "/s/environments/a.json"),
    PermissionError(13, "Permission denied", "/s/environments/a.json"),
    OSError("/s/environments/a.json"),
    ValueError("/s/environments/a.json\nis odd"),
    RuntimeError("/s"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize(
    "error", [*(example[0] for example in EXAMPLES), *SYSTEM], ids=lambda error: repr(error)[:60]
)
def test_reason_is_one_line_without_path(error: BaseException) -> None:
    """Each error has a reason of one line, which is not empty and contains no path."""
    reason = reason_of(error)
    assert reason
    assert "\n" not in reason
    assert "/s/" not in reason
    assert not reason.startswith("/")


def test_reason_keeps_what_client_can_act_on() -> None:
    """The reason says what a client can do something about."""
    assert reason_of(ProviderError("local", "no room")) == "no room"
    assert reason_of(CapacityError(3)) == str(CapacityError(3))
    assert reason_of(LockTimeoutError("/s/lock", None, 1.0)) == "the store is busy: try again"
    assert reason_of(StoreClosedError()) == "the server is shutting down"
    assert reason_of(SYSTEM[0]) == "the store failed: No space left on device"
    assert reason_of(SYSTEM[3]) == "unexpected error (ValueError); see the server log"
