# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the page: each breaks one of its promises."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.planted import Patch, fault, nothing
from tests.server.page import viewer
from waggle_fsstore.domain.access_token import AccessToken
from waggle_fsstore.domain.event import Event, EventFilter
from waggle_fsstore.server.auth import Authentication, Failures, caller_scope
from waggle_fsstore.server.page import (
    access,
    alone,
    application,
    logins,
    stream,
    templates,
    texts,
    trail,
)
from waggle_fsstore.server.page.access import Access
from waggle_fsstore.server.page.logins import Logins
from waggle_fsstore.server.page.makers import Makers
from waggle_fsstore.server.page.source import Source
from waggle_fsstore.server.page.stream import EventStream, Feed
from waggle_fsstore.store.file_store import FileStore

_VIEWS = "tests/server/page/test_views.py::"
_ACCESS = "tests/server/page/test_access.py::"
_STREAM = "tests/server/page/test_stream.py::"
_TRAIL = "tests/server/page/test_trail.py::"

# Rendering


@fault(f"{_VIEWS}test_hostile_text_is_only_text")
def disable_autoescape(patch: Patch) -> None:
    patch.setattr(templates.TEMPLATES, "autoescape", False)


@fault(f"{_VIEWS}test_hostile_id_is_reachable_by_its_link")
def leave_ids_unquoted_in_links(patch: Patch) -> None:
    def link(path: str, **parameters: object) -> str:
        return f"{path}?" + "&".join(f"{name}={value}" for name, value in parameters.items())

    patch.setitem(templates.TEMPLATES.globals, "link", link)


@fault(f"{_VIEWS}test_invisible_characters_are_shown_as_codes")
def show_invisible_characters_as_they_are(patch: Patch) -> None:
    patch.setattr(texts, "_HARMLESS", "".join(map(chr, range(0x3000))))


@fault(f"{_VIEWS}test_responses_are_hardened")
def drop_content_security_policy(patch: Patch) -> None:
    headers = {k: v for k, v in access._HEADERS.items() if k != "Content-Security-Policy"}
    patch.setattr(access, "_HEADERS", headers)


@fault(f"{_VIEWS}test_responses_are_hardened")
def let_browsers_keep_the_page(patch: Patch) -> None:
    patch.setattr(access, "_HEADERS", {**access._HEADERS, "Cache-Control": "max-age=60"})


@fault(f"{_VIEWS}test_unreadable_document_hides_no_other")
def show_paths_of_the_machine(patch: Patch) -> None:
    patch.setattr(Source, "describe", lambda _, error: str(error))


@fault(f"{_VIEWS}test_health_has_the_result_of_the_last_fsck")
def forget_the_last_fsck(patch: Patch) -> None:
    patch.setattr(FileStore, "keep_last_check", lambda *_: None)


# The trail


@fault(f"{_TRAIL}test_oldest_match_is_found_in_little_memory")
def hold_the_whole_history(patch: Patch) -> None:
    real = trail._window

    def window(
        store: Any, wanted: EventFilter, begin: int, end: int
    ) -> tuple[int, Iterator[Event]]:
        begin, events = real(store, trail.ALL, begin, end)
        return begin, filter(wanted.matches, list(events))

    patch.setattr(trail, "_window", window)
    patch.setattr(trail, "_FIRST_WINDOW", 1 << 40)


@fault(f"{_TRAIL}test_recreated_environment_has_no_version_before")
def compare_across_a_deletion(patch: Patch) -> None:
    real = trail._newest

    def newest(*arguments: Any) -> tuple[int, list[trail.Entry]]:
        begin, found = real(*arguments)
        for entry in found:
            entry.is_compared = False
        return begin, found

    patch.setattr(trail, "_newest", newest)


@fault(f"{_TRAIL}test_filter_by_time_includes_its_ends")
def leave_out_the_ends_of_a_time(patch: Patch) -> None:
    real = EventFilter.accepts

    def accepts(self: EventFilter, environment_id: str, actor: str, kind: str, at: Any) -> bool:
        is_accepted = real(self, environment_id, actor, kind, at)
        return is_accepted and at not in (self.since, self.until)

    patch.setattr(EventFilter, "accepts", accepts)


@fault(f"{_TRAIL}test_maker_is_the_actor_of_the_creation")
def take_the_last_actor_for_the_maker(patch: Patch) -> None:
    real = Makers._add

    def add(self: Makers, event: Event) -> None:
        real(self, event)
        self._makers[event.environment_id] = event.actor

    patch.setattr(Makers, "_add", add)


@fault(f"{_TRAIL}test_makers_of_a_long_history_are_read_by_a_thread")
def let_a_view_wait_for_a_long_history(patch: Patch) -> None:
    def catch_up(self: Makers) -> None:
        self._read(trail.latest(self._store))

    patch.setattr(Makers, "_catch_up", catch_up)


@fault("tests/server/page/test_axe.py::test_no_view_breaks_a_rule[1280-False]")
def fade_the_text_beside_a_value(patch: Patch) -> None:
    real = templates.static_file

    def static_file(name: str) -> bytes:
        return real(name).replace(b"--quiet: #5c5a54", b"--quiet: #c8c6c0")

    patch.setattr(application, "static_file", static_file)


@fault("tests/server/page/test_axe.py::test_no_view_breaks_a_rule[360-True]")
def leave_the_list_of_kinds_without_a_label(patch: Patch) -> None:
    environment = templates.TEMPLATES.overlay(autoescape=True)
    loader: Any = environment.loader
    source = loader.get_source(environment, "events.html")[0]
    found = source.replace("<label>Kind ", "<p>Kind ").replace("</select></label>", "</select></p>")
    assert found != source
    template = environment.from_string(found)
    real = templates.TEMPLATES.get_template
    patch.setattr(
        templates.TEMPLATES,
        "get_template",
        lambda name, *rest: template if name == "events.html" else real(name, *rest),
    )


@fault(f"{_TRAIL}test_unreadable_history_of_makers_is_logged_once[FileStore]")
def hide_unreadable_history_of_makers(patch: Patch) -> None:
    patch.setattr(Makers, "_report", nothing)


@fault(f"{_TRAIL}test_makers_begin_again_in_another_history")
def keep_makers_of_another_history(patch: Patch) -> None:
    patch.setattr(Makers, "_forget", lambda _: None)


# Access


@fault(f"{_ACCESS}test_visitor_is_sent_to_the_form")
def show_the_page_without_login(patch: Patch) -> None:
    async def call(self: Access, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    patch.setattr(Access, "__call__", call)


@fault(f"{_ACCESS}test_cookie_is_no_token_and_is_for_this_server_only")
def put_token_in_cookie(patch: Patch) -> None:
    real = Authentication.token_with
    secrets: deque[str] = deque(maxlen=1)

    def token_with(self: Authentication, secret: str) -> AccessToken | None:
        secrets.append(secret)
        return real(self, secret)

    patch.setattr(Authentication, "token_with", token_with)
    patch.setattr(logins, "token_urlsafe", lambda _: f"{secrets[0]:x<43}")


@fault(f"{_ACCESS}test_cookie_is_no_token_and_is_for_this_server_only")
def let_scripts_read_the_cookie(patch: Patch) -> None:
    real = Response.set_cookie

    def set_cookie(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **{**options, "httponly": False})

    patch.setattr(Response, "set_cookie", set_cookie)


@fault(f"{_ACCESS}test_cookie_of_https_is_secure")
def send_the_cookie_without_encryption(patch: Patch) -> None:
    patch.setattr(application, "is_https", lambda _: False)


@fault(f"{_ACCESS}test_login_ends_after_its_time")
def never_end_a_login(patch: Patch) -> None:
    def find(self: Logins, login_id: str) -> str | None:
        return self._logins[login_id].name if login_id in self._logins else None

    patch.setattr(Logins, "find", find)


@fault(f"{_ACCESS}test_login_opens_the_page")
def keep_the_login_at_a_logout(patch: Patch) -> None:
    patch.setattr(Logins, "end", lambda *_: None)


@fault(f"{_ACCESS}test_wrong_tokens_are_limited")
def never_limit_the_form(patch: Patch) -> None:
    patch.setattr(Failures, "add", lambda *_: 0)


@fault(f"{_ACCESS}test_page_and_calls_count_wrong_tokens_together")
def count_wrong_tokens_of_the_form_apart(patch: Patch) -> None:
    real = application._Forms.login
    apart = Failures(lambda: 0.0)

    async def login(self: application._Forms, request: Request) -> Any:
        authentication: Any = self._authentication
        shared, authentication.failures = authentication.failures, apart
        try:
            return await real(self, request)
        finally:
            authentication.failures = shared

    patch.setattr(application._Forms, "login", login)


@fault(f"{_ACCESS}test_read_token_calls_nothing")
def accept_read_token_for_calls(patch: Patch) -> None:
    real = Authentication._find

    def find(self: Authentication, secret: str) -> AccessToken | None:
        token = real(self, secret)
        return token and AccessToken(token.name, token.digest)

    patch.setattr(Authentication, "_find", find)


@fault(f"{_ACCESS}test_login_opens_the_page_only")
def accept_the_cookie_for_calls(patch: Patch) -> None:
    real = Authentication.__call__

    async def call(self: Authentication, scope: Scope, receive: Receive, send: Send) -> None:
        if access.COOKIE in Headers(scope=scope).get("cookie", ""):
            await self._app(caller_scope(scope, "maja"), receive, send)
        else:
            await real(self, scope, receive, send)

    patch.setattr(Authentication, "__call__", call)


@fault(f"{_ACCESS}test_stream_ends_with_the_login")
def stream_on_after_the_login(patch: Patch) -> None:
    _wait_briefly(patch)
    real = EventStream.__init__

    def init(self: EventStream, feed: Any, store: Any, after: str, _: object) -> None:
        real(self, feed, store, after, lambda: True)

    patch.setattr(EventStream, "__init__", init)


# The stream


def _wait_briefly(patch: Patch) -> None:
    """Wait a second for what does not happen with the fault."""
    patch.setattr(viewer, "TIMEOUT_S", 1.0)


@fault(f"{_STREAM}test_viewers_share_one_watcher")
def one_watcher_per_viewer(patch: Patch) -> None:
    _wait_briefly(patch)
    real = Feed.viewer
    patch.setattr(Feed, "viewer", lambda self: real(Feed(self._watched)))


@fault(f"{_STREAM}test_number_of_streams_is_limited")
def no_cap_of_streams(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(Feed, "is_full", False)


@fault(f"{_STREAM}test_number_of_streams_is_limited")
def keep_the_place_of_a_viewer_that_left(patch: Patch) -> None:
    _wait_briefly(patch)

    async def cancel(*_: object) -> None:
        pass

    patch.setattr(stream, "_cancel_when_gone", cancel)


@fault(f"{_STREAM}test_slow_viewer_loses_its_place")
def wait_for_slow_viewers(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(stream, "_SEND_TIMEOUT_S", 1e9)


@fault(f"{_STREAM}test_silent_stream_has_heartbeats")
def send_no_heartbeats(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(stream, "_HEARTBEAT", "")


@fault(f"{_STREAM}test_browser_that_comes_back_misses_nothing")
def ignore_the_last_event_id(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(stream, "missed_events", lambda *_: [])


@fault(f"{_STREAM}test_unknown_last_id_reloads_the_page")
def hide_that_events_are_missing(patch: Patch) -> None:
    _wait_briefly(patch)
    real = stream.missed_events
    patch.setattr(stream, "missed_events", lambda *it: real(*it) or [])


@fault(f"{_STREAM}test_events_arrive_as_they_happen")
def let_proxies_buffer_the_stream(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(stream, "_HEADERS", stream._HEADERS[:-1])


@fault(f"{_STREAM}test_watcher_waits_for_a_change_to_be_published")
def give_up_before_a_change_is_published(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(Feed, "_begin_watching", lambda self, cursor, _: self._watched.watch(cursor, 0.5))


# Alone


@fault("tests/server/page/test_alone.py::test_ui_takes_no_lock_and_removes_nothing")
def recover_the_store_for_the_page(patch: Patch) -> None:
    real = FileStore.__init__

    def init(self: FileStore, *arguments: Any, recovers: bool = True, **options: Any) -> None:
        del recovers
        real(self, *arguments, **options)

    patch.setattr(FileStore, "__init__", init)


@fault("tests/server/page/test_alone.py::test_ui_refuses_addresses_beyond_loopback")
def show_the_page_to_other_machines(patch: Patch) -> None:
    def serve(store: Any, settings: Any, port: int, show: Callable[[str], object]) -> None:
        del store, settings, port
        show("http://0.0.0.0/")

    patch.setattr(alone, "serve_page", serve)
