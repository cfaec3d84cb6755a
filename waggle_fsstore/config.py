# SPDX-License-Identifier: Apache-2.0
"""The settings, read from the ``WAGGLE_*`` environment variables, and their defaults."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol, Self, TypeVar

import platformdirs

from waggle_fsstore.domain.access_token import AccessToken, ClusterToken, parse_tokens
from waggle_fsstore.domain.defaults import (
    DEFAULT_CAPACITY,
    DEFAULT_DATABASE_TIMEOUT,
    DEFAULT_EXEC_TIMEOUT,
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_PORTS,
    DEFAULT_REAPER_INTERVAL,
    DEFAULT_TRASH_KEEP,
    DEFAULT_TRASH_MAX,
    MAX_EXEC_TIMEOUT,
    MAX_IDLE_TIMEOUT,
)
from waggle_fsstore.domain.duration import format_duration, parse_duration
from waggle_fsstore.domain.environment import MAX_TIMEOUT
from waggle_fsstore.domain.errors import SettingError
from waggle_fsstore.domain.retention import KEEP_ALL, Retention, parse_retention
from waggle_fsstore.domain.size import Size, parse_size

_MAX_PORT: Final = 65_535
_MAX_ENVIRONMENTS: Final = 1_000_000
_MAX_HOST_NAME: Final = 100
_OTHERS: Final = 0o077
_EXECUTION_MODES: Final = ("isolated", "off", "unisolated")
_NETWORKS: Final = ("none", "packages", "host")
_MAX_COUNT: Final = 1_000_000
_MIB: Final = 1 << 20
_MIN_SIZE: Final = 64_000
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_LOG_FORMATS: Final = ("text", "json")

# A name or an address, and a port; an IPv6 address with a port is in brackets.
_HOST: Final = re.compile(
    r"(?:[^\s/*:@\[\]]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?|[\da-fA-F.]*(?::[\da-fA-F.]*){2,}", re.ASCII
)

_ORIGIN: Final = re.compile(r"[a-zA-Z][\w+.-]*://[^\s/*@?#]+", re.ASCII)

# ${HOME}, $HOME, $env:HOME, $(pwd) and %USERPROFILE%.
_find_unexpanded: Final = re.compile(
    r"\$\{[^/}]*\}?|\$\([^/)]*\)?|(?<![^/\\])\$[A-Za-z_][\w:]*|%[A-Za-z_][\w()]*%"
).search

_find_snap_revision: Final = re.compile(r"/snap/([^/]+)/(x?[0-9]+)/").search

_T = TypeVar("_T")


class _Read(Protocol):
    """Reads one variable: its value parsed, or the default."""

    def __call__(self, variable: str, parse: Callable[[str], _T], default: _T) -> _T: ...


def store_location(environ: Mapping[str, str] | None = None) -> str:
    """Return the store's location: ``WAGGLE_STORE_PATH``, else ``store`` in the data directory.

    Surrounding blanks do not count, and an empty variable is ignored. Raises what
    :func:`data_dir` raises.
    """
    variables = os.environ if environ is None else environ
    location = variables.get("WAGGLE_STORE_PATH", "").strip()
    return location or os.path.join(data_dir(variables), "store")


def database_timeout(environ: Mapping[str, str] | None = None) -> timedelta:
    """Return ``WAGGLE_STORE_TIMEOUT``, how long a call to a store in a database may take.

    Raises :class:`SettingError`.
    """
    variables = os.environ if environ is None else environ
    text = variables.get("WAGGLE_STORE_TIMEOUT", "").strip()
    try:
        return _database_timeout(text) if text else DEFAULT_DATABASE_TIMEOUT
    except ValueError as error:
        raise SettingError("WAGGLE_STORE_TIMEOUT", str(error)) from None


def data_dir(environ: Mapping[str, str] | None = None) -> str:
    """Return the data directory: ``WAGGLE_DATA_DIR``, else the system's for ``waggle``.

    Raises :class:`SettingError` for an invalid one, and where there is none.
    """
    variables = os.environ if environ is None else environ
    directory = variables.get("WAGGLE_DATA_DIR", "").strip()
    try:
        return local_path(directory) if directory else _user_data_dir()
    except ValueError as error:
        variable = "WAGGLE_DATA_DIR" if directory else "WAGGLE_STORE_PATH"
        raise SettingError(variable, str(error)) from None


def local_path(text: str) -> str:
    """Return the path that a user wrote, with ``~`` and ``~user`` as home directories.

    Raises ``ValueError`` for what a shell would have replaced, such as ``${HOME}`` in the
    settings of a program that does not expand it: it would become the name of a directory.
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError(f"{text!r:.100} names no home directory: write the whole path")
    if text[0] in "'\"" and text[0] == text[-1]:
        raise ValueError(f"{text!r:.100} has quotes that belong to no path: remove them")
    found = _find_unexpanded(text)
    if found:
        raise ValueError(
            f"{text!r:.100} contains {found[0]!r:.50}, which was not replaced by its value: "
            "write the whole path"
        )
    return path


def why_temporary(path: str) -> str:
    """Return why the next start of the same program may use another store; "" if it will not.

    A program in a snap has a data directory for each revision, as ``XDG_DATA_HOME`` says.
    """
    found = _find_snap_revision(path)
    if found is None:
        return ""
    return (
        f"this store belongs to revision {found[2]} of the snap {found[1]}, and other revisions "
        "have others: set WAGGLE_STORE_PATH to a path outside of that directory"
    )


def _user_data_dir() -> str:
    try:
        return platformdirs.user_data_dir("waggle", appauthor=False)
    except RuntimeError:
        raise ValueError(
            "is not set, and this user has no home directory, where the default store would "
            "be: set it to the path of the store"
        ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionSettings:
    """The settings of what runs in environments.

    - ``mode``: ``isolated``, ``off``, ``unisolated``, or "" for isolated where that is possible.
    - ``network``: what has the network: ``none``, ``packages`` (their download), ``host`` (all).
    - ``default_timeout``, ``max_timeout``: how long a program may run.
    - ``memory_mb``: how many MiB of memory the programs of a call may use.
    - ``max_processes``, ``max_open_files``, ``max_file``: limits of the kernel.
    - ``max_workspace``, ``max_output``: how much a workspace may take, and how much of each output
      stream is kept, in bytes.
    - ``max_executions``: how many programs run at once, 0 for twice the number of processors.
    - ``max_executions_each``: how many of them in one environment.
    - ``user``: the user that programs run as where the server is root, "" for a reserved id.
    """

    mode: str = ""
    network: str = "packages"
    default_timeout: timedelta = DEFAULT_EXEC_TIMEOUT
    max_timeout: timedelta = MAX_EXEC_TIMEOUT
    memory_mb: int = 512
    max_processes: int = 128
    max_open_files: int = 1024
    max_file: int = 256 * _MIB
    max_workspace: int = 1024 * _MIB
    max_output: int = _MIB
    max_executions: int = 0
    max_executions_each: int = 4
    user: str = ""

    @classmethod
    def read(cls, read: "_Read") -> Self:
        """Return the settings that ``read`` returns, which takes the name of a variable."""
        defaults = cls()
        max_timeout = read("WAGGLE_MAX_EXEC_TIMEOUT", _exec_timeout, defaults.max_timeout)
        default_timeout = min(defaults.default_timeout, max_timeout)
        default_timeout = read("WAGGLE_DEFAULT_EXEC_TIMEOUT", _exec_timeout, default_timeout)
        if default_timeout > max_timeout:
            raise SettingError("WAGGLE_DEFAULT_EXEC_TIMEOUT", "is above WAGGLE_MAX_EXEC_TIMEOUT")
        count, size = _integer(1, _MAX_COUNT), _bytes
        return cls(
            mode=read("WAGGLE_EXECUTION", _one_of(_EXECUTION_MODES), defaults.mode),
            network=read("WAGGLE_NETWORK", _one_of(_NETWORKS), defaults.network),
            default_timeout=default_timeout,
            max_timeout=max_timeout,
            memory_mb=read("WAGGLE_DEFAULT_MEMORY_MB", _integer(32, 1 << 20), defaults.memory_mb),
            max_processes=read("WAGGLE_MAX_PROCESSES", count, defaults.max_processes),
            max_open_files=read("WAGGLE_MAX_OPEN_FILES", count, defaults.max_open_files),
            max_file=read("WAGGLE_MAX_FILE_SIZE", size, defaults.max_file),
            max_workspace=read("WAGGLE_MAX_WORKSPACE_SIZE", size, defaults.max_workspace),
            max_output=read("WAGGLE_MAX_OUTPUT", size, defaults.max_output),
            max_executions=read("WAGGLE_MAX_EXECUTIONS", count, defaults.max_executions),
            max_executions_each=read(
                "WAGGLE_MAX_EXECUTIONS_EACH", count, defaults.max_executions_each
            ),
            user=read("WAGGLE_SANDBOX_USER", str, defaults.user),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of a service and its server.

    - ``host``, ``port``: the address to listen at for HTTP; port 0 takes any free port.
    - ``max_environments``: the maximum number of live environments.
    - ``default_timeout``: the idle timeout of an environment created without one.
    - ``max_timeout``: the longest that a caller may choose; zero for any, and for never.
    - ``reaper_interval``: the time between two searches for expired environments.
    - ``ssh_ports``: the ports to assign to environments.
    - ``allowed_hosts``: the names and addresses, with or without a port, by which clients
      may call the server in addition to those of the loopback interface.
    - ``workspaces``: the directory of the workspaces, "" for that beside the store.
    - ``host_name``, ``host_url``: the name of this host among those that share a database, and
      where its server can be reached; "" for the name of the machine, and for nowhere.
    - ``trash_keep``: how long the files of expired environments are kept, in time that
      servers lived through; zero for not at all.
    - ``trash_max``: how much room they may take.
    - ``history_keep``: how much of the history is kept.
    - ``allowed_origins``: the origins of web pages that may call the server from a browser.
    - ``tokens``: who may call the server over HTTP; without any, every caller may.
    - ``allow_anonymous``: whether other machines may call a server without tokens.
    - ``cluster_token``: the secret that the servers of one store share, to pass calls on.
    - ``execution``: what runs in environments, and how.
    - ``log_level``: ``debug``, ``info``, ``warning`` or ``error``.
    - ``log_format``: ``text``, ``json``, or "" for text on a terminal and JSON elsewhere.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_environments: int = DEFAULT_CAPACITY
    default_timeout: timedelta = DEFAULT_IDLE_TIMEOUT
    max_timeout: timedelta = MAX_IDLE_TIMEOUT
    reaper_interval: timedelta = DEFAULT_REAPER_INTERVAL
    ssh_ports: range = DEFAULT_PORTS
    allowed_hosts: tuple[str, ...] = ()
    workspaces: str = ""
    host_name: str = ""
    host_url: str = ""
    trash_keep: timedelta = DEFAULT_TRASH_KEEP
    trash_max: Size = DEFAULT_TRASH_MAX
    history_keep: Retention = KEEP_ALL
    allowed_origins: tuple[str, ...] = ()
    tokens: tuple[AccessToken, ...] = field(default=(), repr=False)
    allow_anonymous: bool = False
    cluster_token: ClusterToken | None = field(default=None, repr=False)
    execution: ExecutionSettings = ExecutionSettings()
    log_level: str = "info"
    log_format: str = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Return the settings in the environment variables. An empty variable is ignored.

        Raises :class:`SettingError`, which names the variable, for an invalid value.
        """
        variables = os.environ if environ is None else environ

        def read(variable: str, parse: Callable[[str], _T], default: _T) -> _T:
            text = variables.get(variable, "").strip()
            try:
                return parse(text) if text else default
            except ValueError as error:
                raise SettingError(variable, str(error)) from None

        defaults = cls()
        host, port = read("WAGGLE_LISTEN_ADDR", _address, (defaults.host, defaults.port))
        first = read("WAGGLE_SSH_PORT_BASE", _integer(1, _MAX_PORT), defaults.ssh_ports[0])
        last = read("WAGGLE_SSH_PORT_MAX", _integer(1, _MAX_PORT), defaults.ssh_ports[-1])
        if last < first:
            raise SettingError("WAGGLE_SSH_PORT_MAX", f"{last} is below WAGGLE_SSH_PORT_BASE")
        default_timeout, max_timeout = _read_timeouts(read)
        tokens, cluster_token = _read_tokens(read)
        return cls(
            host=host,
            port=port,
            max_environments=read(
                "WAGGLE_MAX_ENVIRONMENTS", _integer(1, _MAX_ENVIRONMENTS), defaults.max_environments
            ),
            default_timeout=default_timeout,
            max_timeout=max_timeout,
            reaper_interval=read("WAGGLE_REAPER_INTERVAL", _interval, defaults.reaper_interval),
            ssh_ports=range(first, last + 1),
            allowed_hosts=read("WAGGLE_ALLOWED_HOSTS", _hosts, defaults.allowed_hosts),
            workspaces=read("WAGGLE_WORKSPACES", _absolute_path, defaults.workspaces),
            host_name=read("WAGGLE_HOST", _host_name, defaults.host_name),
            host_url=read("WAGGLE_HOST_URL", _url, defaults.host_url),
            trash_keep=read("WAGGLE_TRASH_KEEP", _keep, defaults.trash_keep),
            trash_max=read("WAGGLE_TRASH_MAX", parse_size, defaults.trash_max),
            history_keep=read("WAGGLE_HISTORY_KEEP", parse_retention, defaults.history_keep),
            allowed_origins=read("WAGGLE_ALLOWED_ORIGINS", _origins, defaults.allowed_origins),
            tokens=tokens,
            cluster_token=cluster_token,
            allow_anonymous=read("WAGGLE_ALLOW_ANONYMOUS", _one_of(("0", "1")), "0") == "1",
            execution=ExecutionSettings.read(read),
            log_level=read("WAGGLE_LOG_LEVEL", _one_of(_LOG_LEVELS), defaults.log_level),
            log_format=read("WAGGLE_LOG_FORMAT", _one_of(_LOG_FORMATS), defaults.log_format),
        )

    @property
    def requires_token(self) -> bool:
        """Whether every caller over HTTP has to send a token.

        A cluster token alone takes nothing from those who need none without it.
        """
        needs_none = self.is_loopback or self.allow_anonymous
        return bool(self.tokens) or (self.cluster_token is not None and not needs_none)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        from ipaddress import ip_address  # Takes 2 ms, and only servers need it.

        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() accepts more: underscores, signs, digits of other scripts.
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError(f"{text!r:.100} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{text!r:.100} is not one of {', '.join(choices)}")
        return text.lower()

    return parse


def _minutes(text: str) -> timedelta:
    return timedelta(minutes=_integer(1, MAX_TIMEOUT // timedelta(minutes=1))(text))


def _max_timeout(text: str) -> timedelta:
    if text.lower() == "never":
        return timedelta(0)
    try:
        timeout = parse_duration(text)
    except ValueError:
        timeout = timedelta(0)
    if not timedelta(minutes=1) <= timeout <= MAX_TIMEOUT:
        raise ValueError(f"{text!r:.100} is neither a duration from 1m, such as 24h, nor 'never'")
    return timeout


def _read_timeouts(read: _Read) -> tuple[timedelta, timedelta]:
    """Return the idle timeout where the caller gives none, and the longest, zero for any."""
    longest = read("WAGGLE_MAX_TIMEOUT", _max_timeout, MAX_IDLE_TIMEOUT)
    default = min(DEFAULT_IDLE_TIMEOUT, longest or MAX_TIMEOUT)
    default = read("WAGGLE_DEFAULT_TIMEOUT_MIN", _minutes, default)
    if longest and default > longest:
        reason = f"is above WAGGLE_MAX_TIMEOUT, which is {format_duration(longest)}"
        raise SettingError("WAGGLE_DEFAULT_TIMEOUT_MIN", reason)
    return default, longest


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise ValueError(f"{text!r:.100} is not HOST:PORT, such as 127.0.0.1:8080")
    if not host.isascii():
        raise ValueError(f"{text!r:.100} is not HOST:PORT: the host must be ASCII")
    if ":" in host and not is_bracketed:
        raise ValueError(f"{text!r:.100} is not HOST:PORT: write [{host}]:{port} for IPv6")
    return host[1:-1] if is_bracketed else host, int(port)


def _interval(text: str) -> timedelta:
    try:
        interval = parse_duration(text)
    except ValueError:
        interval = timedelta(0)
    if not timedelta(milliseconds=10) <= interval <= timedelta(days=1):
        raise ValueError(f"{text!r:.100} is not a duration from 10ms to 24h, such as 30s or 5m")
    return interval


def _database_timeout(text: str) -> timedelta:
    timeout = parse_duration(text)
    if not timedelta(seconds=1) <= timeout <= timedelta(minutes=10):
        raise ValueError(f"{text!r:.100} is not a duration from 1s to 10m, such as 45s")
    return timeout


def _exec_timeout(text: str) -> timedelta:
    timeout = parse_duration(text)
    if not timedelta(seconds=1) <= timeout <= timedelta(days=1):
        raise ValueError(f"{text!r:.100} is not a duration from 1s to 24h")
    return timeout


def _bytes(text: str) -> int:
    size = parse_size(text)
    if size.is_percent or size.number < _MIN_SIZE:
        raise ValueError(f"{text!r:.100} is not a number of bytes of at least 64KB")
    return size.of(0)


def _keep(text: str) -> timedelta:
    keep = parse_duration(text)
    if keep < timedelta(0):
        raise ValueError(f"{text!r:.100} is below zero")
    return keep


def _absolute_path(text: str) -> str:
    path = local_path(text)
    if not os.path.isabs(path):
        raise ValueError(f"{text!r:.100} is not an absolute path")
    return path


def _token(text: str) -> tuple[AccessToken, ...]:
    return (AccessToken.parse(_expanded(text)),)


def _cluster_token(text: str) -> ClusterToken | None:
    return ClusterToken.parse(_expanded(text))


def _expanded(text: str) -> str:
    found = _find_unexpanded(text)
    if found and found[0] == text:
        raise ValueError("is the name of a variable, which was not replaced by its value")
    return text


def _read_tokens(read: _Read) -> tuple[tuple[AccessToken, ...], ClusterToken | None]:
    """Return the tokens of the callers, and that of the servers, which no caller may have."""
    none: tuple[AccessToken, ...] = ()
    tokens = (
        *read("WAGGLE_AUTH_TOKEN", _token, none),
        *read("WAGGLE_AUTH_TOKENS_FILE", _tokens_file, none),
    )
    cluster_token = read("WAGGLE_CLUSTER_TOKEN", _cluster_token, None)
    if cluster_token and any(cluster_token.received.digest == token.digest for token in tokens):
        raise SettingError(
            "WAGGLE_CLUSTER_TOKEN",
            "is also the token of a caller, who could then act in the name of any other one: make "
            "another one with 'openssl rand -hex 32'",
        )
    return tokens, cluster_token


def _tokens_file(text: str) -> tuple[AccessToken, ...]:
    if not text.startswith(("/", "~")):  # It may be a token.
        raise ValueError("is not an absolute path: it must be that of the file with the tokens")
    path = _absolute_path(text)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {path!r:.100}: {error.strerror}") from None
    if mode & _OTHERS:
        raise ValueError(f"{path!r:.100} is open to other users: run 'chmod 600' on it")
    try:
        return parse_tokens(content)
    except ValueError as error:
        raise ValueError(f"{path!r:.100}: {error}") from None


def _host_name(text: str) -> str:
    if len(text) > _MAX_HOST_NAME or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r:.100} is not a name of up to {_MAX_HOST_NAME} characters")
    return text


def _url(text: str) -> str:
    is_url = _ORIGIN.match(text) and text.startswith(("http://", "https://"))
    if not is_url or "@" in text:  # Others see it, so it may have no password.
        raise ValueError(f"{text!r:.100} is not a URL, such as http://maja.example:8080")
    return text.rstrip("/")


def _hosts(text: str) -> tuple[str, ...]:
    return _list(text, _HOST, "a host name or address, such as waggle.local:8080")


def _origins(text: str) -> tuple[str, ...]:
    return tuple(
        origin.lower()
        for origin in _list(text, _ORIGIN, "an origin, such as https://app.example:8443")
    )


def _list(text: str, pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in parts:
        if not pattern.fullmatch(part):
            raise ValueError(f"{part!r:.100} is not {what}")
    return parts
