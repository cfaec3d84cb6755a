# SPDX-License-Identifier: Apache-2.0
"""The views: what each path answers, to hostile text too, without JavaScript."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from html import escape
from pathlib import Path
from urllib.parse import unquote

import pytest
from starlette.types import ASGIApp

from tests.cli.cli_runner import run
from tests.server.page.browser import Browser, Document
from waggle_fsstore import FileStore, audit
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.errors import StoreClosedError
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.page import texts, trail, views
from waggle_fsstore.server.page.application import PATHS
from waggle_fsstore.server.page.texts import link, size, visible
from waggle_fsstore.testing import make_environment

HOSTILE = [
    "<script>alert(1)</script>",
    "\"' onmouseover='alert(1)' x=\"",
    "a/b/../c",
    "..",
    "?page=2&actor=x#y",
    "line\nbreak\ttab",
    "gpj.\u202eexe",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "100%25 é 漢 \u2028",
    "x" * 200,
    "/" * 100 + "\n" * 100,
]


@pytest.fixture
def server(root: Path) -> Iterator[tuple[ServiceHost, ASGIApp]]:
    """Yield a server that has no programs, and its application."""
    variables = {"WAGGLE_REAPER_INTERVAL": "1h", "WAGGLE_EXECUTION": "off"}
    settings = Settings.from_env({**variables, "WAGGLE_MAX_ENVIRONMENTS": "4"})
    with ServiceHost(settings, str(root), is_http=True) as host:
        yield host, application(host, settings)


# Hostile text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(store: FileStore, browser: Browser, text: str) -> None:
    """Ids, names, reasons, labels and actors add no element to any view."""
    with audit(actor="innocent", reason="innocent"):
        store.create(make_environment(id="plain", name="plain", labels={"k": "v"}))
        store.update("plain", lambda it: it.labels.update(k="w"))
    views = {name: browser.open(name).elements for name in ("", "events", "environment?id=plain")}
    store.delete("plain")
    first = store.last_change()
    with audit(actor=text, reason=text):
        store.create(make_environment(id=text, name=text, status_reason=text, labels={"k": text}))
        store.update(text, lambda it: it.labels.update(k=text + "!"))
    for name in views:
        page = browser.open(link("environment", id=text) if "?" in name else name)
        kinds = {tag for tag, _ in page.elements}
        assert kinds <= {tag for tag, _ in views[name]} | {"bdi"}
        assert [it for it in page.attributes("script", "src") if "static/" not in it] == []
        assert not any(key.startswith("on") for _, them in page.elements for key in them)
        assert " ".join(visible(text).split()) in page.text
    assert browser.open(f"event?seq={first + 2}").text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_id_is_reachable_by_its_link(store: FileStore, browser: Browser, text: str) -> None:
    """Each link to an environment leads to that one, and to no other place."""
    store.create(make_environment(id=text, name="the one that is meant"))
    for page in (browser.open(), browser.open("events")):
        [target] = {it for it in page.links if it.startswith("environment?")}
        assert unquote(target) == f"environment?id={text}"
        assert "Name the one that is meant" in browser.open(target).text
    assert all(it.partition("?")[0] in _OWN_LINKS for it in page.links)


_OWN_LINKS = {"#main", "./", "events", "event", "environment"}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_filter_is_kept_as_text(browser: Browser, text: str) -> None:
    """What the form has is in its fields again, and nowhere else."""
    page = browser.open(link("events", actor=text, environment=text))
    fields = {it["name"]: it["value"] for tag, it in page.elements if tag == "input"}
    assert (fields["actor"], fields["environment"]) == (text.strip(), text)
    assert "No event." in page.text


def test_invisible_characters_are_shown_as_codes() -> None:
    """Nothing in a text can break a line or turn the text around it."""
    assert visible("a\u202eb\nc\u2066\x00") == "a\\u202eb\\u000ac\\u2066\\u0000"
    assert visible("naïve 漢字 👩\u200d💻") == "naïve 漢字 👩\u200d💻"


# Views


def test_overview_has_all_of_an_environment(store: FileStore, browser: Browser) -> None:
    """Status, name, runtime, age, last use, expiry, maker and reason are in its row."""
    now = datetime.now(UTC)
    with audit(actor="maja mcp:claude", reason="made"):
        store.create(
            make_environment(
                id="one",
                name="Bees",
                runtime="node",
                status=Status.RUNNING,
                created_at=now - timedelta(hours=5, minutes=1),
                last_used=now - timedelta(minutes=9, seconds=30),
                timeout=timedelta(minutes=30),
                host_id="hive",
                status_reason="restarted",
            )
        )
    text = browser.open().text
    assert "Bees one running node hive 5h 9m 20m maja mcp:claude restarted" in text


def test_overview_of_no_store_creates_none(browser: Browser, root: Path) -> None:
    """Where nothing is stored, the page says so, and begins no store."""
    assert "No environment." in browser.open().text
    assert "No event." in browser.open("events").text
    assert not root.exists()


def test_environments_are_paged(
    store: FileStore, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each environment is on one page, and links lead from each page to its neighbours."""
    monkeypatch.setattr(views, "ENVIRONMENTS_PAGE_SIZE", 2)
    store.save_all([make_environment(id=f"env-{number}") for number in range(5)])
    found: list[str] = []
    seen: list[int] = []
    path: str | None = ""
    while path is not None:
        page = browser.open(path)
        seen.append(sum(it.get("class") == "name" for _, it in page.elements))
        found += [it for it in page.links if it.startswith("environment?")]
        following = [it["href"] for tag, it in page.elements if it.get("rel") == "next"]
        path = following[0] if following else None
    assert seen == [2, 2, 1]
    assert len(set(found)) == 5
    assert "5 to 5 of 5" in page.text
    assert "Previous" in page.text
    assert "5 to 5 of 5" in browser.open("?page=99").text


def test_audit_trail_is_paged(
    store: FileStore, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link to older events keeps the filters."""
    monkeypatch.setattr(trail, "search", partial(trail.search, size=2))
    with audit(actor="ä & ö"):
        for number in range(5):
            store.create(make_environment(id=f"env-{number}"))
    with audit(actor="other"):
        store.delete("env-0")
    path, seqs = link("events", actor="ä & ö"), []
    while path:
        page = browser.open(path)
        seqs += [it.rpartition("=")[2] for it in page.links if it.startswith("event?seq=")]
        path = next((it["href"] for _, it in page.elements if it.get("rel") == "next"), "")
        assert not path or "actor=%C3%A4%20%26%20%C3%B6" in path
    assert seqs == ["5", "4", "3", "2", "1"]


def test_events_show_what_changed(store: FileStore, browser: Browser) -> None:
    """Each event has the fields before and after, in a part that opens without a script."""
    store.create(make_environment(id="one", labels={}))
    store.update("one", lambda it: it.labels.update(team="red"))
    for path in ("events", "environment?id=one", "event?seq=2", ""):
        page = browser.open(path)
        assert "labels.team none red" in page.text
        assert ("details" in {tag for tag, _ in page.elements}) == (path != "event?seq=2")


def test_deleted_environment_keeps_its_page(store: FileStore, browser: Browser) -> None:
    """Its history is there; an id that never was is not found."""
    store.create(make_environment(id="one"))
    store.delete("one")
    assert "not stored any more" in browser.open("environment?id=one").text
    assert browser.ask("environment?id=two").status == 404
    assert browser.ask("event?seq=3").status == 404


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("?page=0", "page"),
        ("?page=-1", "page"),
        (f"?page={'9' * 5000}", "page"),
        ("?page=%D9%A3", "page"),
        ("events?before=x", "before"),
        ("events?kind=%3Cb%3E", "kind"),
        ("events?since=yesterday", "since"),
        ("events?until=0001-01-01T00:00:00%2B23:59", "until"),
        ("environment", "id"),
        ("event?seq=1e3", "seq"),
    ],
)
def test_wrong_query_is_refused(browser: Browser, path: str, field: str) -> None:
    """The answer names the parameter, and does not repeat what was sent."""
    answer = browser.ask(path)
    assert answer.status == 400
    assert f"{field}: " in Document(answer.body).text
    assert "%3Cb" not in answer.body


def test_times_of_the_form_are_utc(store: FileStore, browser: Browser) -> None:
    """The form sends times without a zone; a link may have one."""
    store.create(make_environment(id="one"))
    page = browser.open("events?since=2020-01-01T00:00&until=2100-01-01T02:00:00%2B02:00")
    fields = {it["name"]: it.get("value") for tag, it in page.elements if tag == "input"}
    assert (fields["since"], fields["until"]) == ("2020-01-01T00:00:00", "2100-01-01T00:00:00")
    assert "one" in page.text


def test_unreadable_document_hides_no_other(store: FileStore, browser: Browser) -> None:
    """The list has the others, and the health names the file inside the store only."""
    store.save_all([make_environment(id="good"), make_environment(id="bad")])
    store.document_path("bad").write_text("{")
    page = browser.open()
    assert "environment?id=good" in page.links
    assert "Unreadable documents" in page.text
    assert "environments/bad.json" in page.text
    assert str(store.path) not in page.text
    assert "cannot be read" in browser.open("environment?id=bad").text


def test_store_that_fails_is_reported(
    store: FileStore, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is 503 without a path of this machine; the log has the reason."""

    def fail(*_: object, **__: object) -> None:
        raise StoreClosedError

    monkeypatch.setattr(store, "find_all", fail)
    answer = browser.ask("")
    assert answer.status == 503
    assert "The store cannot be read now" in answer.body


def test_views_read_in_threads(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop answers others while the store is read."""
    threads: list[threading.Thread] = []
    real = trail.search

    def search(*arguments: object, **options: object) -> trail.Page:
        threads.append(threading.current_thread())
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trail, "search", search)
    for path in ("", "events"):
        browser.open(path)
    assert len(threads) == 2
    assert threading.current_thread() not in threads


def test_views_change_nothing(store: FileStore, browser: Browser) -> None:
    """No request changes a file of the store, and no other method is allowed."""
    store.create(make_environment(id="one"))
    before = _contents(store.path)
    for path in ("", "events?actor=x", "environment?id=one", "event?seq=1"):
        browser.open(path)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert browser.ask(path, method).status == 405
    assert _contents(store.path) == before


def _contents(root: Path) -> dict[str, bytes]:
    return {str(it): it.read_bytes() for it in root.rglob("*") if it.is_file()}


def test_views_say_where_the_stream_continues(store: FileStore, browser: Browser) -> None:
    """It is the last change that they show; older pages and single events do not change."""
    assert browser.open().attributes("p", "data-after") == ["0"]
    store.create(make_environment(id="one"))
    store.create(make_environment(id="two"))
    for path in ("", "events?actor=nobody-at-all", "environment?id=one"):
        assert browser.open(path).attributes("p", "data-after") == ["2"]
    for path in ("events?before=2", "event?seq=1"):
        assert browser.open(path).attributes("p", "data-after") == []


# Health


def test_health_reports_the_server(server: tuple[ServiceHost, ASGIApp]) -> None:
    """Capacity, journal, checkpoint, orphans, trash and isolation are there, and no check yet."""
    host, app = server
    host.service.create("shell")
    text = Browser(app).open().text
    for expected in (
        "Server ready; leads",
        "Capacity 1 of 4 live",
        "Environments 1 running",
        "Last fsck none is recorded",
        "KiB in 1 file",
        "the last change is 2",
        "Orphans 0",
        "Trash 0 bytes",
        "Programs off: execution is switched off",
    ):
        assert expected in text
    assert "look at this" not in text


def test_health_has_the_result_of_the_last_fsck(store: FileStore, browser: Browser) -> None:
    """It is that of the command line, with its time; no view checks the store."""
    store.save_all([make_environment(id="good"), make_environment(id="bad")])
    assert "Last fsck none is recorded" in browser.open().text
    store.document_path("bad").write_text("{")
    run("--store", str(store.path), "fsck")
    page = browser.open()
    assert "1 error, 0 warnings; 0s ago, 20" in page.text
    assert "error: environments/bad.json" in page.text
    store.document_path("good").unlink()
    assert "1 error," in browser.open().text
    run("--store", str(store.path), "fsck", "--repair")
    assert "0 errors, 0 warnings, 2 repaired" in browser.open().text


def test_damaged_result_of_fsck_is_none(store: FileStore, browser: Browser) -> None:
    """What another program has written there breaks no view."""
    store.create(make_environment(id="one"))
    for text in ("", "[]", '{"at": 1}', '{"at": "2026-01-01", "errors": "x"}'):
        (store.path / ".waggle/last-fsck").write_text(text)
        assert "Last fsck none is recorded" in browser.open().text


def test_full_capacity_is_marked(server: tuple[ServiceHost, ASGIApp]) -> None:
    """Near the limit an operator sees that there is something to do."""
    host, app = server
    for _ in range(4):
        host.service.create("shell")
    page = Browser(app).open()
    assert "Capacity look at this 4 of 4 live" in page.text
    assert page.attributes("meter", "value") == ["1.000"]


# Responses


@pytest.mark.parametrize("path", ["", "events", "login", "logout", "static/page.css", "event"])
def test_responses_are_hardened(browser: Browser, path: str) -> None:
    """Each response, also one that refuses, keeps the browser from loading anything else."""
    headers = browser.ask(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert {"frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} <= set(policy)
    assert {it for it in policy if "-src" in it} == {
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    cached = "static" in path
    assert ("no-store" in headers["cache-control"]) != cached


def test_page_loads_only_its_own_files(store: FileStore, browser: Browser) -> None:
    """No view needs another server, an inline script or an inline style."""
    store.create(make_environment(id="one"))
    assert browser.ask("favicon.ico").status == 204
    for path in ("", "events", "environment?id=one", "event?seq=1"):
        page = browser.open(path)
        loaded = page.attributes("script", "src") + page.attributes("link", "href")
        for url in loaded:
            assert url.startswith("static/")
            assert browser.ask(url).status == 200
        assert not page.attributes("div", "style")
        assert sum(tag == "script" for tag, _ in page.elements) == 1
        assert not any(tag == "style" for tag, _ in page.elements)


def test_page_works_without_scripts(store: FileStore, browser: Browser) -> None:
    """All is in the HTML; links and a form with GET lead everywhere."""
    store.create(make_environment(id="one", name="Bees"))
    page = browser.open()
    assert "Bees" in page.text
    form = next(it for tag, it in browser.open("events").elements if tag == "form")
    assert (form["method"], form["action"]) == ("get", "events")
    assert page.attributes("html", "lang") == ["en"]
    assert page.attributes("a", "href")[0] == "#main"


def test_other_hosts_and_origins_are_refused(server: tuple[ServiceHost, ASGIApp]) -> None:
    """The page has the checks of /mcp: no other name, and no other web page."""
    browser = Browser(server[1])
    for path in sorted(PATHS):
        path = path.removeprefix("/")
        assert browser.with_headers(Host="evil.example").ask(path).status == 421
        for origin in ("http://evil.example", "null"):
            assert browser.with_headers(Origin=origin).ask(path).status == 403


def test_sizes_and_links_are_readable() -> None:
    """A size has one unit; a link leaves out what has no value."""
    assert [size(it) for it in (0, 1023, 1024, 5 << 30)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "5.0 GiB",
    ]
    assert link("events", actor="", before=None) == "events"
    assert escape(link("events", actor="a&b", kind="x")) == "events?actor=a%26b&amp;kind=x"
    assert texts.until(None) == "never"
    assert texts.until(timedelta(seconds=-1)) == "now"


def test_files_of_the_page_begin_with_their_licence() -> None:
    """Templates, style and script say in their second line what they are for, as modules do."""
    root = Path(views.__file__).parent
    paths = [*root.glob("templates/*"), *root.glob("static/*")]
    assert {it.suffix for it in paths} == {".html", ".css", ".js"}
    for path in paths:
        first, second, *_ = path.read_text().splitlines()
        assert "SPDX-License-Identifier: Apache-2.0" in first, path
        assert second.removesuffix(" #}").removesuffix(" */").endswith("."), path
