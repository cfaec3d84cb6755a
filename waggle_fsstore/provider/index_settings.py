# SPDX-License-Identifier: Apache-2.0
"""The settings of the operator for the indexes of packages, as a download in a sandbox needs them.

They come from the variables of the server and from the configuration files of pip and npm. They
may have passwords, so they are for the download only: no environment sees them.
"""

import base64
import os
import re
import sys
from collections.abc import Iterable, Mapping
from configparser import RawConfigParser
from dataclasses import replace
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from waggle_fsstore.domain.execution import Execution
from waggle_fsstore.provider.sandbox.view import CODE_DIR, is_below

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CERTIFICATES: Final = (
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
)
_CERTIFICATE_DIR: Final = "SSL_CERT_DIR"

# Options of pip. Others, such as ``target`` and ``user``, say how the operator installs packages.
_PIP_LOCATIONS: Final = frozenset({"index-url", "extra-index-url", "find-links"})
_PIP_FILES: Final = frozenset({"cert", "client-cert", "constraint"})
_PIP_OTHERS: Final = frozenset(
    {"no-index", "trusted-host", "proxy", "pre", "use-feature", "use-deprecated", "prefer-binary"}
    | {"retries", "timeout", "default-timeout", "uploaded-prior-to"}
)
_PIP_OPTIONS: Final = _PIP_LOCATIONS | _PIP_FILES | _PIP_OTHERS
_PIP_SECTIONS: Final = ("global", "install", "download")

# Options of npm in variables. Those with a slash or a colon belong to a registry or a scope.
_NPM_FILES: Final = frozenset({"cafile", "certfile", "keyfile"})
_NPM_OPTIONS: Final = _NPM_FILES | {
    *("registry", "proxy", "https_proxy", "http_proxy", "noproxy", "ca", "cert", "key"),
    *("strict_ssl", "_auth", "_authtoken", "fetch_retries", "fetch_timeout", "maxsockets"),
    *("fetch_retry_mintimeout", "fetch_retry_maxtimeout", "replace_registry_host", "before"),
    *("min_release_age", "legacy_peer_deps", "strict_peer_deps"),
}
_NPM_PREFIX: Final = "npm_config_"
_NPM_REGISTRY: Final = re.compile(
    r"^\s*((?:@[^:\s]+:)?registry)\s*=\s*[\"']?([^\s\"']+)", re.MULTILINE
)

# An index that cannot be reached is reported within ten seconds.
_PIP_TIMEOUT_S: Final = 5
_NPM_TIMEOUT_MS: Final = 5_000
_RESOLVER: Final = "timeout:2 attempts:1"

_SECRETS: Final = (
    re.compile(r"://[^/\s:@]*:([^/\s@]+)@"),
    re.compile(r"://([^/\s:@]+):?@"),
    re.compile(r"_(?:authtoken|auth|password)\s*=\s*[\"']?([^\s\"']+)", re.IGNORECASE),
)
_HIDDEN: Final = "****"


class IndexSettings(NamedTuple):
    """What a download needs.

    - ``variables``: environment variables.
    - ``files``: the contents of files below ``CODE_DIR``, by name.
    - ``directories``: indexes on this machine, to be shown in their place.
    - ``registries``: the URL of each registry of npm, without its password, by option.
    - ``secrets``: what no result may have.
    """

    variables: Mapping[str, str]
    files: Mapping[str, bytes]
    directories: tuple[str, ...]
    registries: Mapping[str, str]
    secrets: tuple[str, ...]

    def redacted(self, result: Execution) -> Execution:
        """Return a result without the secrets."""
        stdout, stderr = result.stdout, result.stderr
        for secret in self.secrets:
            stdout, stderr = stdout.replace(secret, _HIDDEN), stderr.replace(secret, _HIDDEN)
        return replace(result, stdout=stdout, stderr=stderr)


def pip_settings(environ: Mapping[str, str], root: str) -> IndexSettings:
    """Return the settings of pip. No directory around or below ``root`` is shown."""
    found = _Found(environ)
    values = _pip_values(environ)
    for option in _PIP_FILES & values.keys():
        values[option] = " ".join(map(found.place, values[option].split()))
    for option in _PIP_LOCATIONS & values.keys():
        for location in values[option].split():
            found.show(location, root)
    values.setdefault("retries", "0")
    if not {"timeout", "default-timeout"} & values.keys():
        values["timeout"] = str(_PIP_TIMEOUT_S)
    for option, value in values.items():
        found.set(f"PIP_{option.upper().replace('-', '_')}", value)
    # The values above are from those files. A keyring would be another program.
    found.set("PIP_CONFIG_FILE", os.devnull)
    found.set("PIP_KEYRING_PROVIDER", "disabled")
    return found.settings()


def npm_settings(environ: Mapping[str, str]) -> IndexSettings:
    """Return the settings of npm."""
    found = _Found(environ)
    values = {
        name[len(_NPM_PREFIX) :].lower().replace("-", "_") if _is_plain(name) else name: value
        for name, value in environ.items()
        if name.lower().startswith(_NPM_PREFIX)
    }
    files = {
        "globalconfig": values.get("globalconfig") or "/etc/npmrc",
        "userconfig": values.get("userconfig") or os.path.expanduser("~/.npmrc"),
    }
    registries: dict[str, str] = {}
    options: dict[str, str] = {}
    for option, path in files.items():
        text = _with_logins(_expanded(_read(path).decode(errors="replace"), environ))
        registries |= dict(_NPM_REGISTRY.findall(text))
        options |= _npm_options(text)
        if text:
            found.set(f"{_NPM_PREFIX}{option}", found.add(option, text))
    options |= {name: value for name, value in values.items() if name in _NPM_OPTIONS}
    for option in _NPM_FILES & options.keys():
        found.set(f"{_NPM_PREFIX}{option}", found.place(options[option]))
    for name, value in values.items():
        if name in _NPM_OPTIONS - _NPM_FILES:
            found.set(f"{_NPM_PREFIX}{name}", value)
        elif not _is_plain(name):
            found.set(name, value)
    for option, default in (("fetch_retries", 0), ("fetch_timeout", _NPM_TIMEOUT_MS)):
        if option not in options:
            found.set(f"{_NPM_PREFIX}{option}", str(default))
    if "registry" in values:
        registries["registry"] = values["registry"]
        plain, login = _without_login(values["registry"])
        found.set(f"{_NPM_PREFIX}registry", plain)
        if login:
            text = found.text("userconfig") + f"\n{login}\n"
            found.set(f"{_NPM_PREFIX}userconfig", found.add("userconfig", text))
    return found.settings(registries)


class _Found:
    """Collects settings."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._variables: dict[str, str] = {"RES_OPTIONS": environ.get("RES_OPTIONS", _RESOLVER)}
        self._files: dict[str, bytes] = {}
        self._directories: list[str] = []
        for name in _PROXIES:
            for written in (name, name.upper()):
                if value := environ.get(written):
                    self.set(written, value)
        for name in _CERTIFICATES:
            if value := environ.get(name):
                self.set(name, self.place(value))
        if (path := environ.get(_CERTIFICATE_DIR, "")) and os.path.isdir(path):
            self.set(_CERTIFICATE_DIR, path)
            self._directories.append(os.path.abspath(path))

    def set(self, name: str, value: str) -> None:
        self._variables[name] = value

    def add(self, name: str, text: str) -> str:
        """Add a file, and return its path in the sandbox."""
        self._files[name] = text.encode()
        return f"{CODE_DIR}/{name}"

    def text(self, name: str) -> str:
        """Return the text of a file that was added, "" if there is none."""
        return self._files.get(name, b"").decode(errors="replace")

    def place(self, path: str) -> str:
        """Add a file of this machine, and return its path in the sandbox; anything else stays."""
        content = _read(path)
        if not content:
            return path
        name = f"{len(self._files)}-{os.path.basename(path)}"
        self._files[name] = content
        return f"{CODE_DIR}/{name}"

    def show(self, location: str, root: str) -> None:
        """Show an index that is on this machine."""
        path = url2pathname(urlsplit(location).path) if location.startswith("file:") else location
        if not os.path.isabs(path) or not os.path.exists(path):
            return
        path = os.path.abspath(path)
        if os.path.basename(path) == "simple":
            path = os.path.dirname(path)  # A mirror has its packages beside that.
        real, own = os.path.realpath(path), os.path.realpath(root)
        if not is_below(own, real) and not is_below(real, own):
            self._directories.append(path)

    def settings(self, registries: Mapping[str, str] | None = None) -> IndexSettings:
        """Return what was found."""
        texts = [f"{name}={value}" for name, value in self._variables.items()]
        texts += [content.decode(errors="replace") for content in self._files.values()]
        found = {
            secret for text in texts for one in _SECRETS for secret in one.findall(text) if secret
        }
        found |= set(map(unquote, found))
        found |= {password for secret in found if (password := _password_in(secret))}
        return IndexSettings(
            self._variables,
            self._files,
            tuple(dict.fromkeys(self._directories)),
            {name: _without_password(url) for name, url in (registries or {}).items()},
            tuple(sorted(found, key=len, reverse=True)),
        )


def _pip_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the options of pip that concern indexes, in the order in which pip reads them."""
    values: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = RawConfigParser()
        parser.optionxform = _option  # type: ignore[assignment, method-assign]
        parser.read_string(_read(path).decode(errors="replace"), path)
        for section in _PIP_SECTIONS:
            if parser.has_section(section):
                values |= parser.items(section)
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            values[_option(name.removeprefix("PIP_"))] = value
    return {option: value for option, value in values.items() if option in _PIP_OPTIONS}


def _pip_files(environ: Mapping[str, str]) -> Iterable[str]:
    """Yield the paths of the configuration files of pip: each overrides those before it."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return
    for directory in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep):
        yield os.path.join(directory, "pip", "pip.conf")
    yield "/etc/pip.conf"
    if not os.path.exists(named):
        yield os.path.expanduser("~/.pip/pip.conf")
        own = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        yield os.path.join(own, "pip", "pip.conf")
    yield os.path.join(sys.base_prefix, "pip.conf")
    yield os.path.join(sys.prefix, "pip.conf")
    if named:
        yield named


def _option(name: str) -> str:
    return name.lower().removeprefix("--").replace("_", "-")


def _npm_options(text: str) -> dict[str, str]:
    """Return the options in the text of an ``.npmrc``, by their names in variables."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {
        name.strip().lower().replace("-", "_"): value.strip().strip("\"'")
        for name, _, value in pairs
    }


def _is_plain(name: str) -> bool:
    return "/" not in name and ":" not in name


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    """Return the text of an ``.npmrc`` with the values of the variables that it names."""
    return re.sub(r"\$\{([^}?]+)\??\}", lambda found: environ.get(found[1], found[0]), text)


def _with_logins(text: str) -> str:
    """Return the text of an ``.npmrc`` without logins in its URLs, which npm writes to its cache.

    They become settings of their registries, which it does not write anywhere.
    """
    lines: list[str] = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        plain, login = _without_login(value.strip().strip("\"'"))
        lines += [f"{name}{equals}{plain}", login] if login else [line]
    return "\n".join(lines)


def _without_login(url: str) -> tuple[str, str]:
    """Return a URL without its login, and the line of an ``.npmrc`` that has it, "" for none."""
    parts = urlsplit(url) if "://" in url else None
    if parts is None or "@" not in parts.netloc:
        return url, ""
    login, _, host = parts.netloc.rpartition("@")
    packed = base64.b64encode(unquote(login).encode()).decode()
    path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
    return _without_password(url), f"//{host}{path}:_auth={packed}"


def _password_in(secret: str) -> str:
    """Return the password in a login as ``_auth`` has it, "" for anything else."""
    try:
        return base64.b64decode(secret, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _read(path: str) -> bytes:
    """Return the contents of a file; nothing of one that is missing or unreadable, as pip does."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError):
        return b""
