# SPDX-License-Identifier: Apache-2.0
"""The documents of the project: what they point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_FILE = re.compile(r"`((?:tests|docs|waggle_fsstore|store)/[\w./+-]*)`")


def _anchors(page: Path) -> set[str]:
    """What a link may name of a page: its headings, as the sites that show it write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Each link within the project leads to a file, and to a heading that it has."""
    for target, anchor in _LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in _anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files(page: Path) -> None:
    """Each file of the project that a page names is there."""
    for name in _FILE.findall(page.read_text()):
        assert (ROOT / name).exists() or (ROOT / "waggle_fsstore" / name).exists(), name


def test_modules() -> None:
    """The list of modules has each one of the domain and the stores, and no other."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^    (\w+\.py) ", text, re.MULTILINE)
    package = ROOT / "waggle_fsstore"
    found = {path.name for folder in ("domain", "store") for path in package.glob(f"{folder}/*.py")}
    assert sorted(listed) == sorted(found - {"__init__.py"})
