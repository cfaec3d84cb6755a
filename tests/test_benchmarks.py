# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: the limits of their counts, and what is drawn and printed from saved results."""

import json

import pytest

from benchmarks import counts, page, scale


def test_count_above_its_limit_is_reported() -> None:
    """A count within the tolerance passes; a higher one, and one without a limit, are named."""
    limits = {"save, system calls": 20.0}
    assert counts.too_high({"save, system calls": 20.5}, limits) == []
    assert counts.too_high({"save, system calls": 21.0}, limits) == [
        "save, system calls: 21.0 exceeds the limit of 20.0"
    ]
    assert counts.too_high({"new": 1.0}, limits) == ["new: 1.0, and no limit is recorded"]


def test_scale_table_says_what_was_not_run() -> None:
    """An operation that was skipped at a size is shown as such, and the history is extrapolated."""
    results = {
        "sizes": {"10": {"check": 0.5, "save": 0.001}, "1000000": {"save": 0.002}},
        "history": {"measured": {"saves": 1000.0, "bytes": 500.0, "seconds": 6e-6}},
    }
    text = scale.markdown(json.loads(json.dumps(results)))
    assert "| check     |  500 ms | not run   |" in text
    assert "100,000,000 saves take 50 GB and 10 minutes to read." in text


def test_page_shows_the_kept_results() -> None:
    """Tables and sentences with figures are those that the kept results give."""
    for path, parts in page.PAGES.items():
        assert page.updated(path.read_text(), parts) == path.read_text()


def test_page_with_another_figure_is_updated() -> None:
    """A figure that was edited on the page is replaced by the one in the results."""
    [path, parts] = next(iter(page.PAGES.items()))
    text = path.read_text()
    calls = f"{page.kept_counts()['save, system calls']:,.1f}"
    assert page.updated(text.replace(calls, "1.0"), parts) == text != text.replace(calls, "1.0")


def test_sentence_that_is_no_longer_true_is_refused() -> None:
    """A page is not written with a figure that turns a sentence of it into its opposite."""
    assert (page.won(2.0), page.lost(0.5)) == ("2.00", "0.50")
    with pytest.raises(ValueError, match="lost here"):
        page.won(0.9)
    with pytest.raises(ValueError, match="won here"):
        page.lost(1.1)
