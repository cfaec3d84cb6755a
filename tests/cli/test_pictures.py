# SPDX-License-Identifier: Apache-2.0
"""The pictures of ls and top in the docs: they are what the programs draw now."""

import html
import re
from pathlib import Path

import pytest

from tests.cli.pictures import COLUMNS, DOCS, drawn, fill, picture


def _words(svg: str) -> list[str]:
    """Return the words in a picture, without times, which are never the same."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    words = html.unescape(" ".join(texts)).replace("\xa0", " ").split()
    return [word for word in words if not re.fullmatch(r"\d+[smh]", word)]


@pytest.mark.parametrize("verb", ["ls", "top"])
def test_picture_is_what_the_program_draws(tmp_path: Path, verb: str) -> None:
    """After a change of the output, ``python -m tests.cli.pictures`` draws them again."""
    fill(tmp_path / "store")
    text = drawn(tmp_path / "store", verb)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= COLUMNS
    kept = (DOCS / f"{verb}.svg").read_text()
    assert _words(kept) == _words(picture(text, f"waggle-fsstore {verb}"))
    assert "url(http" not in kept
