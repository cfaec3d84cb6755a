# SPDX-License-Identifier: Apache-2.0
"""The language of the docs and of the package: plain words, and one term for each thing.

CONTRIBUTING has the rules. A match names the file and the line.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for pattern in ("*.md", "Makefile", "docs/**/*", "benchmarks/*.md", "waggle_fsstore/**/*")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix not in (".pyc", ".png")
)

#: Words that hide the actor or that readers stumble over, each with what to write instead.
WORDS = {
    r"whoever|who ever|somebody|nobody|anybody": "name the actor: the caller, another process, ...",
    r"anew": "again",
    r"by hand|(?:a|the|some|whose|which) hands?": "manual edit, manually",
    r"meanwhile": "in the meantime, concurrently, until then",
    r"so many": "the number, or a number of",
    r"of (?:its|their) own(?! \w)": "separate, independent, its own X",
    r"(?:is|are) told|tells of": "is reported, reports",
    r"stands(?! for)|goes on": "is, remains, continues",
    r"for one(?=[,.;])": "for example",
    r"what is there": "name the thing",
}

#: One term for each thing.
TERMS = {
    r"folders?": "directory",
    r"strays?": "orphan",
    r"fsync(?:s|ed|ing)? the folder": "sync the directory",
}

#: Where a word may stay: the file, and a text of the line that has it.
ALLOWED = {
    ("benchmarks/README.md", "fsync(folder)"),  # The name of a row in the kept results.
    ("docs/operating.md", "'\"strays\"'"),
    ("docs/decisions/0014-layout-names-and-sizes.md", "`strays`"),
    ("CHANGELOG.md", "`Reconciliation.strays`"),  # Old names.
    ("CHANGELOG.md", "`provider.folders`"),
    ("waggle_fsstore/service/reaper.py", '"strays"'),  # A field of the log.
}


def matches(path: Path, words: dict[str, str]) -> list[str]:
    """Return each match in a file that is not allowed, as ``file:line: word -> better``."""
    name, text = str(path.relative_to(ROOT)), path.read_text()
    lines = text.splitlines()
    allowed = [place for file, place in ALLOWED if file == name]
    found = []
    for pattern, better in words.items():
        # A phrase may be wrapped, also in a comment.
        phrase = pattern.replace(" ", r"\s+(?:#:?\s+)?")
        for match in re.finditer(rf"(?<![\w/])(?:{phrase})(?![\w/])", text, re.IGNORECASE):
            number = text.count("\n", 0, match.start()) + 1
            if not any(place in lines[number - 1] for place in allowed):
                found.append(f"{name}:{number}: {match[0]!r} -> {better}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_only_plain_words(path: Path) -> None:
    """No file has a word that hides the actor or that a native reader would not use."""
    found = matches(path, WORDS)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_one_term_for_each_thing(path: Path) -> None:
    """A directory is a directory, and a workspace without a record an orphan, in every file."""
    found = matches(path, TERMS)
    assert not found, "\n".join(found)


def test_each_allowed_place_is_used() -> None:
    """Each allowed place exists, and needs the permission."""
    patterns = "|".join([*WORDS, *TERMS])
    for name, text in ALLOWED:
        lines = [line for line in (ROOT / name).read_text().splitlines() if text in line]
        assert lines, text
        assert any(re.search(patterns, line, re.IGNORECASE) for line in lines), text
