# SPDX-License-Identifier: Apache-2.0
"""The page in Chromium: on a phone, in the dark, by keyboard, and live."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.page.chromium import Chromium, chromium
from tests.server.page.test_alone import _ui
from tests.server.page.test_views import HOSTILE
from waggle_fsstore import FileStore, audit
from waggle_fsstore.server.page.texts import link
from waggle_fsstore.testing import make_environment

PHONE = 360
_TAB, _ENTER = "\ue004", "\ue007"


@pytest.fixture
def url(store: FileStore, root: Path) -> Iterator[str]:
    """Yield the URL of the page of a store with hostile text in it."""
    for number, text in enumerate(HOSTILE):
        with audit(actor=text, reason=text):
            store.create(make_environment(id=text, name=text, status_reason=text))
            store.update(text, lambda it, n=number: it.labels.update({HOSTILE[n]: HOSTILE[n]}))  # type: ignore[misc]
    with _ui(root) as (_, url):
        yield url


@pytest.fixture
def browser() -> Iterator[Chromium]:
    with chromium() as browser:
        yield browser


def test_page_fits_a_phone(browser: Chromium, url: str) -> None:
    """At 360 pixels nothing has to be scrolled sideways, hostile text included."""
    browser.show(PHONE, is_phone=True)
    views = ["", "events", "event?seq=2", "login", "event?seq=99", *_environments()]
    for view in views:
        browser.open(f"{url}{view}")
        browser.run("document.querySelectorAll('details').forEach(it => it.open = true)")
        assert browser.run("return innerWidth") == PHONE
        assert browser.run("return document.documentElement.scrollWidth") <= PHONE, view
    assert not [it for it in browser.complaints if "404" not in it]


def _environments() -> list[str]:
    return [link("environment", id=text) for text in HOSTILE]


def test_page_follows_the_colours_of_the_system(browser: Chromium, url: str) -> None:
    """The ground is light by day and dark by night, and the text can be read on both."""
    for is_dark in (False, True):
        browser.show(1280, is_dark=is_dark)
        browser.open(url)
        ground, text = (_brightness(browser, name) for name in ("backgroundColor", "color"))
        assert (ground < 60) is is_dark
        assert abs(ground - text) > 150


def _brightness(browser: Chromium, name: str) -> float:
    colour = browser.run(f"return getComputedStyle(document.body).{name}")
    red, green, blue = map(int, colour.removeprefix("rgb(").rstrip(")").split(","))
    return (red + green + blue) / 3


def test_page_is_used_by_keyboard(browser: Chromium, url: str) -> None:
    """The first key leads past the frame, and what has the focus can be seen."""
    browser.open(url)
    browser.press(_TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    browser.press(_ENTER, _TAB)
    assert browser.run("return document.activeElement.closest('main') !== null")
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(f"return {style}") == "solid"


def test_page_shows_changes_by_itself(browser: Chromium, url: str, store: FileStore) -> None:
    """A new environment appears without a reload, and no policy blocks the script."""
    browser.open(url)
    browser.until("document.getElementById('live').textContent === 'live'")
    browser.run("window.isSame = true")
    store.create(make_environment(id="new", name="a new one"))
    browser.until("document.getElementById('main').textContent.includes('a new one')")
    assert browser.run("return window.isSame")
    assert browser.complaints == []


def test_reader_is_not_interrupted(browser: Chromium, url: str, store: FileStore) -> None:
    """While something is open, the page offers what is new, and does not move."""
    browser.open(f"{url}events")
    browser.until("document.getElementById('live').textContent === 'live'")
    browser.run("document.querySelector('details').open = true")
    store.create(make_environment(id="new", name="a new one"))
    browser.until("document.querySelector('.fresh') !== null")
    assert browser.run("return document.querySelector('details').open")
    browser.run("document.querySelector('details').open = false")
    browser.run("document.querySelector('.fresh').click()")
    browser.until("document.getElementById('main').textContent.includes('new')")


def test_script_of_hostile_text_never_runs(browser: Chromium, url: str) -> None:
    """No view runs what is in an id, a name or a reason, not even a click on its link."""
    for view in ("", "events"):
        browser.open(f"{url}{view}")
        assert browser.run("return document.querySelectorAll('main script').length") == 0
        assert browser.run("return document.querySelectorAll('[onmouseover]').length") == 0
    assert browser.complaints == []


def test_browser_logs_in_and_out(
    browser: Chromium, store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form is sent with an origin that the server accepts, and no script sees the cookie."""
    store.create(make_environment(id="one", name="Bees"))
    monkeypatch.setenv("WAGGLE_AUTH_TOKEN", "the-token-of-the-test")
    with _ui(root) as (_, url):
        browser.open(url)
        assert browser.run("return location.pathname") == "/login"
        browser.press(*"the-token-of-the-test", _ENTER)
        browser.until("document.body.textContent.includes('Bees')")
        browser.until("document.getElementById('live').textContent === 'live'")
        assert browser.run("return [location.pathname, document.cookie]") == ["/", ""]
        browser.run("document.querySelector('form[action=logout] button').click()")
        browser.until("location.pathname === '/login'")
        browser.open(f"{url}events")
        assert browser.run("return location.pathname") == "/login"
    assert browser.complaints == []
