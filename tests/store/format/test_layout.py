# SPDX-License-Identifier: Apache-2.0
"""File names of ids are unique and safe on every file system."""

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format.layout import document_name, environment_id_of, is_document_name
from waggle_fsstore.testing.repository import ODD_IDS

IDS = st.one_of(
    st.text(min_size=1, max_size=200),
    st.text(alphabet="aA.%~/\\ -_0é\u0301\u00e9", min_size=1, max_size=200),
    st.sampled_from(ODD_IDS),
).filter(is_id)
ORDINARY_IDS = st.from_regex(r"[a-z0-9_-]([a-z0-9._-]{0,198}[a-z0-9_-])?", fullmatch=True)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def folded(name: str) -> set[str]:
    """Return all names that are equal on a file system that ignores case or normalises."""
    return {
        unicodedata.normalize(form, changed)
        for form in ("NFC", "NFD", "NFKC", "NFKD")
        for changed in (name.casefold(), name.upper(), name.lower())
    }


@given(ORDINARY_IDS)
def test_ordinary_id_is_its_file_name(environment_id: str) -> None:
    """Lower-case letters, digits, ``-``, ``_`` and inner dots are unchanged in a file name."""
    if not RESERVED.match(environment_id):
        assert document_name(environment_id) == f"{environment_id}.json"


@given(IDS, IDS)
@example("a", "A")
@example("\u00e9", "e\u0301")
@example("%41", "A")
@example("con", "%63on")
@example("x" * 199 + "X", "x" * 199 + "\u00d7")
@example("A" * 200, "A" * 199 + "B")
def test_ids_never_share_a_file_name(one: str, two: str) -> None:
    """No two ids share a name where the file system ignores case or normalises Unicode."""
    if one != two:
        assert not folded(document_name(one)) & folded(document_name(two))


@given(IDS)
@example("../../etc/passwd")
@example("con.x.y")
@example("lpt1")
@example("X" * 200)
@example("\U0001f41d" * 50)
def test_file_names_are_safe_everywhere(environment_id: str) -> None:
    """A name is one short path component of plain ASCII, without a special meaning."""
    name = document_name(environment_id)
    assert len(name) <= 255
    assert re.fullmatch(r"[a-z0-9_.%~-]+\.json", name)
    assert not name.startswith(".")
    assert not name.removesuffix(".json").endswith(".")
    assert not RESERVED.match(name)


@given(IDS)
@example("X" * 200)
def test_file_name_leads_back_to_id(environment_id: str) -> None:
    """A document name is recognised, and gives its id unless it holds a hash."""
    name = document_name(environment_id)
    assert is_document_name(name)
    assert environment_id_of(name) == (None if "~" in name else environment_id)


@given(st.one_of(st.text(max_size=260), IDS.map(lambda other: f"{other}.json")))
def test_unused_names_are_foreign(name: str) -> None:
    """Only the exact file name of an id is a document name."""
    found = environment_id_of(name)
    if found is not None:
        assert document_name(found) == name
    elif "~" not in name:
        assert not is_document_name(name)


@pytest.mark.parametrize(
    "name",
    [
        ".json",
        "a",
        "a.JSON",
        "A.json",
        "a..json",
        ".a.json",
        "con.json",
        "aux.x.json",
        "%41.JSON",
        "%61.json",
        "%4A.json",
        "%4.json",
        "%ff.json",
        "a b.json",
        "a.json~",
        ".a.json.swp",
        "a.json.tmp",
        "a.json.bak",
        "#a.json#",
        "a~0123456789abcdef0123456789abcdef.json",
        "x" * 201 + ".json",
        ".DS_Store",
        "a.json\n",
    ],
)
def test_leftovers_of_editors_are_foreign(name: str) -> None:
    """Files that editors, systems and manual edits leave are no documents."""
    assert not is_document_name(name)


def test_file_names_are_the_format() -> None:
    """Names are part of the format on disk and never change."""
    assert document_name("data-analysis_2.v1") == "data-analysis_2.v1.json"
    assert document_name("../../etc/passwd") == "%2e.%2f..%2fetc%2fpasswd.json"
    assert document_name("Über") == "%c3%9cber.json"
    assert document_name("con") == "%63on.json"
    assert document_name("nul.txt") == "%6eul.txt.json"
    assert document_name("end.") == "end%2e.json"
    assert document_name("A" * 84) == ("%41" * 72 + "~9acc8f368eb635edd6e8d4bfaa8ed53d.json")
