# SPDX-License-Identifier: Apache-2.0
"""Chromium without a window, driven by chromedriver over HTTP (https://www.w3.org/TR/webdriver2)."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tests.server.processes import TIMEOUT_S

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class Chromium:
    """One window. Each method waits until the browser has done what it asks for."""

    def __init__(self, driver: str, profile: str, program: str) -> None:
        options = {"binary": program, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        logged = {"goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
        answer = _post(f"{driver}/session", {"capabilities": {"alwaysMatch": logged}})
        self._session = f"{driver}/session/{answer['sessionId']}"

    def show(
        self, width: int, height: int = 800, *, is_dark: bool = False, is_phone: bool = False
    ) -> None:
        """Show pages as a screen of this width would."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self._command("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._command("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, url: str) -> None:
        """Load a page."""
        _post(f"{self._session}/url", {"url": url})
        # The driver may answer while the page before is still shown.
        self.until("document.readyState === 'complete' && document.styleSheets.length === 1")

    def run(self, script: str) -> Any:
        """Return what a function body in JavaScript returns in the page."""
        return _post(f"{self._session}/execute/sync", {"script": script, "args": []})

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.run(f"return {script}"):
            assert time.monotonic() < deadline, script
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        action = {"type": "key", "id": "keyboard", "actions": pressed}
        _post(f"{self._session}/actions", {"actions": [action]})

    def screenshot(self) -> bytes:
        """Return what is on the screen, as PNG."""
        with urllib.request.urlopen(f"{self._session}/screenshot", timeout=TIMEOUT_S) as answer:  # noqa: S310
            return base64.b64decode(json.load(answer)["value"])

    @property
    def complaints(self) -> list[str]:
        """What the browser has logged: errors of scripts, and what a policy has blocked."""
        entries = _post(f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] != "DEBUG"]

    def _command(self, name: str, parameters: dict[str, Any]) -> None:
        _post(f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Start the browser for the block. Skips the test where it is not installed."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = next(
                filter(
                    None, (re.search(r"successfully on port (\d+)", it) for it in process.stdout)
                )
            )
            browser = Chromium(f"http://127.0.0.1:{found[1]}", profile, program)
            try:
                yield browser
            finally:
                _request("DELETE", browser._session)
        finally:
            process.terminate()


def _post(url: str, body: dict[str, Any]) -> Any:
    return _request("POST", url, body)


def _request(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, method=method)  # noqa: S310  # chromedriver's.
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer)["value"]
