# SPDX-License-Identifier: Apache-2.0
"""The difference of two versions: each field that differs, and no other."""

from dataclasses import replace
from datetime import timedelta

from waggle_fsstore.domain.environment import Status
from waggle_fsstore.server.page.difference import Difference, difference, document
from waggle_fsstore.testing import make_environment


def test_equal_versions_have_no_difference() -> None:
    """Another revision alone is no difference."""
    one = make_environment()
    assert difference(one, replace(one, revision=7)) == []


def test_difference_names_each_changed_field() -> None:
    """Plain fields and members are given with both values, in the order of the fields."""
    before = make_environment(labels={"team": "red", "old": ""}, timeout=timedelta(minutes=5))
    after = replace(
        before, status=Status.ERROR, timeout=timedelta(hours=1), labels={"team": "blue", "new": "x"}
    )
    assert difference(before, after) == [
        Difference("status", "running", "error"),
        Difference("timeout", "5m0s", "1h0m0s"),
        Difference("labels.team", "red", "blue"),
        Difference("labels.new", None, "x"),
        Difference("labels.old", "", None),
    ]


def test_difference_to_no_version_has_all_fields() -> None:
    """What is created or deleted differs in each field that has a value."""
    one = make_environment()
    created, deleted = difference(None, one), difference(one, None)
    assert {field: after for field, before, after in created if before is None} == document(one)
    assert [(field, after, before) for field, before, after in created] == deleted
    assert difference(None, None) == []


def test_document_shows_each_kind_of_value() -> None:
    """Members have the name of their field before theirs; texts are as they were stored."""
    shown = document(make_environment(status_reason="<b>\n", extra={"n": {"a": [1, "é"]}}))
    assert shown["status_reason"] == "<b>\n"
    assert shown["extra.n.a"] == '[1, "é"]'
    assert shown["capabilities.has_venv"] == "true"
    assert shown["owner.pid"] == "4242"
    assert shown["created_at"].endswith("+00:00")
    assert not {"id", "revision"} & shown.keys()
