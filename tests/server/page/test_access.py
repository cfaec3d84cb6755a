# SPDX-License-Identifier: Apache-2.0
"""Access to the page: the form, the cookie, tokens that may only read, and where no token shows."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from tests.server import asgi
from tests.server.asgi import LegacyClient
from tests.server.page.browser import Browser, Document
from tests.server.page.viewer import Viewer
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.access_token import AccessToken, parse_tokens
from waggle_fsstore.server.auth import Authentication
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.page import logins as logins_module
from waggle_fsstore.server.page import stream
from waggle_fsstore.server.page.access import COOKIE
from waggle_fsstore.server.page.application import PATHS, page_of
from waggle_fsstore.server.page.logins import LIFETIME_S, Logins
from waggle_fsstore.server.page.source import Source
from waggle_fsstore.store.memory_store import MemoryStore

MAJA, EYE = "the-token-of-maja-0", "the-token-of-an-eye"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def app(root: Path, tmp_path: Path) -> Iterator[ASGIApp]:
    """Yield an application with a token for all, and one that may only read."""
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"maja {MAJA}\neye {EYE} read\n")
    settings = Settings.from_env(
        {
            "WAGGLE_AUTH_TOKENS_FILE": str(path),
            "WAGGLE_REAPER_INTERVAL": "1h",
            "WAGGLE_EXECUTION": "off",
        }
    )
    with ServiceHost(settings, str(root), is_http=True) as host:
        yield application(host, settings)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> ASGIApp:
    """Return a page alone, whose logins have a clock that the test sets."""
    tokens = [AccessToken.parse(MAJA, "maja")]
    authentication = Authentication(PlainTextResponse(), tokens, clock)
    return page_of(Source(MemoryStore()), authentication, Logins(clock))


def _login(browser: Browser, token: str = MAJA, **headers: str) -> asgi.Answer:
    return browser.ask("login", "POST", urlencode({"token": token}), **headers)


def test_visitor_is_sent_to_the_form(app: ASGIApp) -> None:
    """Without login or token there is a form, and nothing of the store."""
    browser = Browser(app)
    for path in ("", "events", "environment?id=x", "event?seq=1"):
        answer = browser.ask(path)
        assert (answer.status, answer.headers["location"], answer.body) == (303, "login", "")
    assert browser.ask("stream").status == 401
    form = browser.open("login")
    [sent] = [it for tag, it in form.elements if tag == "form"]
    assert (sent["method"], sent["action"]) == ("post", "login")
    assert {it["type"] for tag, it in form.elements if tag == "input"} == {"password"}
    for url in form.attributes("link", "href") + form.attributes("script", "src"):
        assert browser.ask(url).status == 200


@pytest.mark.parametrize("token", [MAJA, EYE])
def test_login_opens_the_page(app: ASGIApp, token: str) -> None:
    """Both kinds of tokens do; the cookie opens all views until the logout."""
    browser = Browser(app)
    answer = _login(browser, f" {token}\n")
    assert (answer.status, answer.headers["location"]) == (303, "./")
    for path in ("", "events"):
        page = browser.open(path)
        assert "Log out" in page.text
    cookie = browser.headers["Cookie"]
    answer = browser.ask("logout", "POST")
    assert (answer.status, answer.headers["location"]) == (303, "login")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    browser.headers["Cookie"] = cookie
    assert browser.ask("").status == 303


def test_cookie_is_no_token_and_is_for_this_server_only(app: ASGIApp) -> None:
    """It is random, no script can read it, and no other site can have it sent."""
    cookies = [_login(Browser(app)).headers["set-cookie"] for _ in range(2)]
    assert cookies[0] != cookies[1]
    for cookie in cookies:
        value, *flags = cookie.split("; ")
        name, _, login_id = value.partition("=")
        assert name == COOKIE
        assert len(login_id) >= 43
        assert MAJA not in cookie
        assert "maja" not in cookie.lower()
        assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={int(LIFETIME_S)}"} == set(flags)


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://localhost"}, {"X-Forwarded-Proto": "https"}]
)
def test_cookie_of_https_is_secure(app: ASGIApp, headers: dict[str, str]) -> None:
    """A browser that came by HTTPS sends the cookie by HTTPS only."""
    browser = Browser(app)
    assert "Secure" in _login(browser, **headers).headers["set-cookie"].split("; ")
    assert "Secure" in browser.ask("logout", "POST", **headers).headers["set-cookie"].split("; ")


def test_login_ends_after_its_time(timed: ASGIApp, clock: Clock) -> None:
    """Use does not prolong it."""
    browser = Browser(timed)
    _login(browser)
    clock.now = LIFETIME_S - 1
    browser.open()
    clock.now = LIFETIME_S
    assert browser.ask("").status == 303


def test_new_login_ends_the_old_one(timed: ASGIApp) -> None:
    """A browser has one login at a time, and the server alone chooses its id."""
    browser = Browser(timed, Cookie=f"{COOKIE}=chosen")
    _login(browser)
    old = browser.headers["Cookie"]
    assert old != f"{COOKIE}=chosen"
    _login(browser)
    browser.open()
    browser.headers["Cookie"] = old
    assert browser.ask("").status == 303


def test_number_of_logins_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest one makes room: memory does not grow."""
    monkeypatch.setattr(logins_module, "_MAX_LOGINS", 2)
    logins = Logins(Clock())
    first, second, third = (logins.begin(name) for name in "abc")
    assert [logins.find(it) for it in (first, second, third, "", "x")] == [
        None,
        "b",
        "c",
        None,
        None,
    ]


@pytest.mark.parametrize(
    "cookie", ["", "x", f"{COOKIE}=", f"{COOKIE}=x", f"{COOKIE}={MAJA}", "\x01=;;;=", "a=b; c"]
)
def test_other_cookies_open_nothing(app: ASGIApp, cookie: str) -> None:
    """Neither nonsense nor the token itself is a login."""
    assert Browser(app, Cookie=cookie).ask("").status == 303


def test_wrong_tokens_are_limited(timed: ASGIApp, clock: Clock) -> None:
    """After ten within a minute the form says when to try again; a valid token works."""
    browser = Browser(timed)
    for _ in range(10):
        answer = _login(browser, "wrong")
        assert answer.status == 401
        assert "This token is not valid." in Document(answer.body).text
    answer = _login(browser, "wrong")
    assert (answer.status, answer.headers["retry-after"]) == (429, "60")
    assert "set-cookie" not in answer.headers
    assert _login(browser).status == 303
    clock.now = 61
    assert _login(browser, "wrong").status == 401


def test_page_and_calls_count_wrong_tokens_together(app: ASGIApp) -> None:
    """An attacker cannot try ten at each of them."""
    browser = Browser(app)
    for _ in range(5):
        assert _login(browser, "wrong").status == 401
        assert browser.ask("mcp", "POST", Authorization="Bearer wrong").status == 401
    assert _login(browser, "wrong").status == 429
    assert browser.ask("", Authorization="Bearer wrong").status == 429


@pytest.mark.parametrize(
    "body", ["", "token=", "x=y", f"a=b&token={MAJA}", "token=%ff%fe", "token=" + "x" * 10_000, "%"]
)
def test_broken_form_is_refused(timed: ASGIApp, body: str) -> None:
    """What is no token is a wrong one, and a long body is not kept."""
    assert Browser(timed).ask("login", "POST", body).status == 401


def test_bearer_token_opens_the_page(app: ASGIApp) -> None:
    """A program needs no login; a wrong token gets no form."""
    for token in (MAJA, EYE):
        assert Browser(app, Authorization=f"Bearer {token}").ask("").status == 200
    answer = Browser(app, Authorization="Bearer wrong").ask("")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_read_token_calls_nothing(app: ASGIApp) -> None:
    """It opens the page and the metrics; calls are refused before anything of them is read."""
    eye = Browser(app, Authorization=f"Bearer {EYE}")
    assert eye.ask("metrics").status == 200
    for method in ("POST", "GET", "DELETE"):
        for path in ("mcp", "mcp/", "docs"):
            answer = eye.ask(path, method)
            assert answer.status == 403
            assert "may only read" in answer.body

    class EyeClient(LegacyClient):
        @property
        def headers(self) -> dict[str, str]:
            return {**super().headers, "Authorization": f"Bearer {EYE}"}

    answer = asyncio.run(EyeClient(app).ask("tools/call", name="list_environments", arguments={}))
    assert answer.status == 403


def test_login_opens_the_page_only(app: ASGIApp) -> None:
    """No web page can make a browser call tools with the cookie."""
    browser = Browser(app)
    _login(browser)
    browser.open()
    for path in ("mcp", "metrics", "docs"):
        assert browser.ask(path, "POST").status == 401


def test_third_column_makes_token_read_only() -> None:
    """Any other word there is refused."""
    tokens = parse_tokens(f"maja {MAJA}\neye {EYE} read\n")
    assert [(it.name, it.is_read_only) for it in tokens] == [("maja", False), ("eye", True)]
    for word in ("write", "READ", "read read"):
        with pytest.raises(ValueError, match="line 1 is not NAME TOKEN"):
            parse_tokens(f"eye {EYE} {word}")


def test_no_token_is_in_urls_answers_and_log(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says by name who logged in."""
    caplog.set_level(logging.DEBUG)
    browser = Browser(app)
    answers = [
        _login(browser),
        browser.ask(""),
        browser.ask("events"),
        _login(browser, "wrong-token"),
    ]
    for answer in answers:
        for text in (answer.body, *answer.headers.values(), caplog.text):
            assert MAJA not in text
            assert "wrong-token" not in text
    assert "maja logged in" in caplog.text
    assert browser.headers["Cookie"].partition("=")[2] not in caplog.text
    for path in sorted(PATHS):
        answer = Browser(app).ask(f"{path[1:]}?token={MAJA}")
        assert answer.status != 200 or path in ("/login", "/static/page.css", "/static/page.js")
        assert "set-cookie" not in answer.headers
        assert MAJA not in "".join([answer.body, *answer.headers.values()])


def test_stream_ends_with_the_login(
    timed: ASGIApp, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer whose login has ended gets no further event."""
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.01)

    async def login() -> str:
        body = urlencode({"token": MAJA}).encode()
        headers = {"Host": "localhost"}
        answer = await asgi.request(timed, "POST", "/login", headers=headers, body=body)
        return answer.headers["set-cookie"].partition(";")[0]

    async def dialogue() -> None:
        async with Viewer(timed, Cookie=await login()) as viewer:
            await viewer.until(lambda: ": heartbeat" in viewer.body)
            clock.now = LIFETIME_S
            await viewer.ended()
        async with Viewer(timed) as viewer:
            assert viewer.status == 401

    asyncio.run(dialogue())


def test_page_without_tokens_needs_no_login(root: Path) -> None:
    """On the loopback interface without tokens, the form leads to the page."""
    settings = Settings.from_env({"WAGGLE_REAPER_INTERVAL": "1h", "WAGGLE_EXECUTION": "off"})
    with ServiceHost(settings, str(root), is_http=True) as host:
        browser = Browser(application(host, settings))
        assert "Log out" not in browser.open().text
        for method in ("GET", "POST"):
            assert browser.ask("login", method).headers["location"] == "./"


def test_request_without_form_needs_a_token(app: ASGIApp) -> None:
    """Methods that no browser uses for a link are refused, not sent to the form."""
    assert Browser(app).ask("", "POST").status == 401
