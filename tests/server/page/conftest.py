# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of the page: a store without a server, and a browser that shows it."""

import pytest
from starlette.types import ASGIApp

from tests.server.page.browser import Browser
from waggle_fsstore import FileStore
from waggle_fsstore.server.page.application import page_of
from waggle_fsstore.server.page.logins import Logins
from waggle_fsstore.server.page.source import Source


@pytest.fixture
def page(store: FileStore) -> ASGIApp:
    return page_of(Source(store), None, Logins())


@pytest.fixture
def browser(page: ASGIApp) -> Browser:
    return Browser(page)
