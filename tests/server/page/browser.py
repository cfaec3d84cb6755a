# SPDX-License-Identifier: Apache-2.0
"""What a browser without JavaScript makes of the page: elements, links and text."""

import asyncio
from html.parser import HTMLParser
from typing import Self

from starlette.types import ASGIApp

from tests.server import asgi
from tests.server.asgi import Answer


class Document(HTMLParser):
    """The elements of a page in their order, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

        self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._text.append(" ")

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    def attributes(self, tag: str, name: str) -> list[str]:
        """Return the values of an attribute of all elements of a kind that have it."""
        return [found[name] for one, found in self.elements if one == tag and name in found]

    @property
    def links(self) -> list[str]:
        return self.attributes("a", "href")


class Browser:
    """Asks an application for pages, with a cookie once it has one, as a browser does."""

    def __init__(self, app: ASGIApp, **headers: str) -> None:
        self._app = app
        self.headers = {"Host": "localhost", **headers}

    def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> Answer:
        sent = {**self.headers, **headers}
        if method == "POST":
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        answer = asyncio.run(
            asgi.request(self._app, method, f"/{path}", headers=sent, body=body.encode())
        )
        if "set-cookie" in answer.headers:
            self.headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
        return answer

    def open(self, path: str = "") -> Document:
        """Return a page, which must be there."""
        answer = self.ask(path.removeprefix("./"))
        assert answer.status == 200, answer
        return Document(answer.body)

    def with_headers(self, **headers: str) -> Self:
        return type(self)(self._app, **{**self.headers, **headers})
