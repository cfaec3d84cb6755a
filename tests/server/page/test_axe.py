# SPDX-License-Identifier: Apache-2.0
"""The rules of accessibility that axe-core checks, in Chromium: no view of the page breaks one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.npm import UnavailableError, install
from tests.server.page.chromium import Chromium, chromium
from tests.server.page.test_alone import _ui
from tests.server.page.test_views import HOSTILE
from waggle_fsstore import FileStore, audit
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.server.page.texts import link
from waggle_fsstore.testing import make_environment

_LOCKED: Final = Path(__file__).parent / "axe"
_TOKEN: Final = "the-token-of-the-test"  # noqa: S105

_VIEWS: Final = (
    "",
    "events",
    "events?actor=of-no-client",
    "event?seq=2",
    "event?seq=99",
    *(link("environment", id=text) for text in ("one", HOSTILE[0])),
)


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source of axe-core, which npm installs. Skips the test where it cannot."""
    target = tmp_path_factory.mktemp("axe")
    try:
        install(_LOCKED, target)
    except UnavailableError as reason:
        if os.environ.get("WAGGLE_TEST_AXE") == "required":
            raise
        pytest.skip(f"axe-core is not installed: {reason}")
    return (target / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture
def browser() -> Iterator[Chromium]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def filled(store: FileStore) -> FileStore:
    """Return a store with each status, hostile text, differences and a corrupt document."""
    for status in ("creating", "running", "destroying", "error"):
        one = make_environment(id=f"env-{status}", status=status, status_reason="a reason")
        store.create(one)
    with audit(actor="maja", reason="changed"):
        store.create(make_environment(id="one", labels={"team": "red"}))
        store.update("one", lambda it: it.labels.update(team="blue"))
        store.update("one", lambda it: it.transition_to(Status.ERROR))
    for text in HOSTILE:
        with audit(actor=text, reason=text):
            store.create(make_environment(id=text, name=text, status_reason=text))
    store.delete("env-error")
    store.document_path("env-creating").write_text("{")
    return store


def _violations(browser: Chromium, axe: str) -> dict[str, list[str]]:
    """Return the rules that a view breaks, with everything open, and where it does."""
    browser.run("document.querySelectorAll('details').forEach(it => it.open = true)")
    browser.run(f"if (!window.axe) {{ {axe} }}")
    found = browser.run("return axe.run().then(it => it.violations)")
    return {one["id"]: [node["html"] for node in one["nodes"][:3]] for one in found}


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_no_view_breaks_a_rule(
    browser: Chromium, axe: str, filled: FileStore, width: int, is_dark: bool
) -> None:
    """On a desktop and on a phone, in light and in dark colours."""
    with _ui(filled.path) as (_, url):
        browser.show(width, is_dark=is_dark, is_phone=width < 500)
        for view in _VIEWS:
            browser.open(f"{url}{view}")
            assert _violations(browser, axe) == {}, view


def test_form_to_log_in_breaks_no_rule(
    browser: Chromium, axe: str, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither before nor after an attempt with a wrong token."""
    monkeypatch.setenv("WAGGLE_AUTH_TOKEN", _TOKEN)
    store.create(make_environment())
    with _ui(store.path) as (_, url):
        browser.open(f"{url}login")
        assert _violations(browser, axe) == {}
        browser.press(*"wrong", "\ue007")
        browser.until("document.querySelector('.problem') !== null")
        assert _violations(browser, axe) == {}


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("color-contrast", "document.querySelector('h1').style.color = '#dddddd'"),
        ("html-has-lang", "document.documentElement.removeAttribute('lang')"),
        ("document-title", "document.title = ''"),
        ("select-name", "let it = document.querySelector('select'); it.parentNode.replaceWith(it)"),
        ("link-name", "document.querySelector('.brand').textContent = ''"),
        ("list", "document.querySelector('.events').prepend(document.createElement('p'))"),
    ],
)
def test_planted_violation_is_found(
    browser: Chromium, axe: str, filled: FileStore, rule: str, plant: str
) -> None:
    """The check sees what a mistake in a template or in the colours would do."""
    with _ui(filled.path) as (_, url):
        browser.show(1280)
        browser.open(f"{url}events")
        browser.run(plant)
        assert rule in _violations(browser, axe)
