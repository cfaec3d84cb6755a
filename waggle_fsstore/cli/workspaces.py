# SPDX-License-Identifier: Apache-2.0
"""The verbs that work inside an environment: exec, cp, shell."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from itertools import chain
from typing import IO, TYPE_CHECKING, Final, NamedTuple, NoReturn

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.audit_options import actor_option, audit_as
from waggle_fsstore.cli.completion import complete_place
from waggle_fsstore.cli.environment_ids import full_id, id_argument
from waggle_fsstore.cli.exit_codes import ExitCode
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.parse import parse_timeout
from waggle_fsstore.cli.store_option import StoreLocation, require_persistent
from waggle_fsstore.domain.execution import Stdio, Stop
from waggle_fsstore.domain.workspace_file import MAX_FILE_BYTES

# Few verbs need it.
if TYPE_CHECKING:
    from waggle_fsstore.service.workspaces import Workspaces

_NO_TIMEOUT: Final = timedelta.max

# A shell of people, if there is one.
_SHELL: Final = 'exec "$(command -v bash || command -v sh)" -i'

_REASONS: Final = {
    Stop.TIMEOUT: "it ran for longer than --timeout",
    Stop.MEMORY: "it used more than WAGGLE_DEFAULT_MEMORY_MB, or hardly any memory was left",
    Stop.DISK: "the environment took more room than WAGGLE_MAX_WORKSPACE_SIZE",
    Stop.DESTROYED: "the environment was removed",
}

# As shells report a signal.
_SIGNAL_BASE: Final = 128


@click.command("exec", help=HELP["exec"])
@id_argument
@click.argument(
    "command", metavar="-- CMD [ARG]...", nargs=-1, required=True, help="A program, its arguments."
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="30s",
    show_default=True,
    help="How long it may run, such as 10m; 0: without limit.",
)
@click.option("--stdin", "-i", is_flag=True, help="Give it the standard input of this program.")
@actor_option
@click.pass_obj
def exec_(
    location: StoreLocation,
    environment_id: str,
    command: tuple[str, ...],
    timeout: str,
    stdin: bool,
    actor: str | None,
) -> None:
    """Run a command in the sandbox of an environment."""
    from waggle_fsstore.cli.pass_through import passed_on

    limit = parse_timeout(timeout)
    if limit < timedelta(0):
        raise click.BadParameter("is below zero", param_hint="'--timeout'")
    if stdin and sys.stdin is None:
        raise click.BadParameter("standard input is closed", param_hint="'--stdin'")
    with audit_as(actor):
        _run(location, environment_id, command, limit or _NO_TIMEOUT, passed_on(has_stdin=stdin))


@click.command(help=HELP["shell"])
@id_argument
@actor_option
@click.pass_obj
def shell(location: StoreLocation, environment_id: str, actor: str | None) -> None:
    """Open a shell in the sandbox of an environment."""
    if not (_is_terminal(sys.stdin) and _is_terminal(sys.stdout)):
        raise click.UsageError("a shell needs a terminal; exec runs a command without one")
    from waggle_fsstore.cli.terminal import pseudo_terminal

    command = ["env", f"TERM={os.environ.get('TERM', 'dumb')}", "sh", "-c", _SHELL]
    terminal = pseudo_terminal(sys.stdin.fileno(), sys.stdout.fileno())
    with audit_as(actor):
        _run(location, environment_id, command, _NO_TIMEOUT, terminal)


@click.command(help=HELP["cp"])
@click.argument(
    "source", metavar="SRC", help="ID:PATH, a file, or -.", shell_complete=complete_place
)
@click.argument(
    "target", metavar="DST", help="ID:PATH, a file, or -.", shell_complete=complete_place
)
@click.pass_obj
def cp(location: StoreLocation, source: str, target: str) -> None:
    """Copy a file into an environment, or out of one."""
    places = _place_of(source), _place_of(target)
    match places:
        case _Place("", path), _Place(environment_id, inside) if environment_id:
            with _opened(location, environment_id) as (workspaces, found_id), _open(path) as file:
                name = _named(inside, path)
                offset = 0
                for part in _parts_of(file):
                    offset = workspaces.write(found_id, name, part, offset=offset)
        case _Place(environment_id, inside), _Place("", path) if environment_id:
            with _opened(location, environment_id) as (workspaces, found_id):
                _write(path, inside, _parts_inside(workspaces, found_id, inside))
        case _:
            raise click.UsageError("exactly one of SRC and DST is ID:PATH")


@contextmanager
def _opened(location: StoreLocation, given: str) -> Iterator[tuple["Workspaces", str]]:
    """Yield what works in the environments of this host, and the id that was given in full."""
    from waggle_fsstore.wiring import open_service

    with location.open() as store:
        require_persistent(store)
        environment_id = full_id(store, given)
        with open_service(store) as service:
            yield service.workspaces, environment_id


def _run(
    location: StoreLocation,
    environment_id: str,
    command: Sequence[str],
    timeout: timedelta,
    streams: AbstractContextManager[Stdio],
) -> NoReturn:
    """Run a command, and exit with its code; if it was stopped, say why."""
    from waggle_fsstore.cli.pass_through import noted_signals

    with (
        _opened(location, environment_id) as (workspaces, found_id),
        noted_signals() as signals,
        streams as stdio,
    ):
        result = workspaces.run(
            found_id, command, timeout=timeout, stdio=stdio, is_cancelled=lambda: bool(signals)
        )
    code = result.exit_code
    if result.stopped is Stop.CANCELLED:
        code = _SIGNAL_BASE + signals[0]
    elif result.stopped:
        reason = _REASONS.get(result.stopped, result.stopped)
        output.report_error(f"the program was stopped: {reason}")
        code = ExitCode.TIMED_OUT if result.stopped is Stop.TIMEOUT else ExitCode.ERROR
    raise click.exceptions.Exit(code)


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and stream.isatty()


class _Place(NamedTuple):
    """A file: on this machine, or in an environment, of which there is an id then."""

    environment_id: str
    path: str


def _place_of(text: str) -> _Place:
    """Return the place of a file. A path with a slash before its colon is one on this machine."""
    name, colon, path = text.partition(":")
    return _Place(name, path) if name and colon and "/" not in name else _Place("", text)


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        if sys.stdin is None:
            raise click.BadParameter("standard input is closed", param_hint="'SRC'")
        yield sys.stdin.buffer
        return
    if os.path.isdir(path):
        reason = f"{path!r} is a directory: only files are copied; --help shows another way"
        raise click.BadParameter(reason, param_hint="'SRC'")
    with open(path, "rb") as file:
        yield file


def _named(inside: str, path: str) -> str:
    """Return the path in an environment to which a file of this machine is copied."""
    if inside and not inside.endswith("/"):
        return inside
    if path == "-":
        raise click.BadParameter("names no file", param_hint="'DST'")
    return inside + os.path.basename(path)


def _parts_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what is in a file, in parts that can be written at once; an empty one has one."""
    yield file.read(MAX_FILE_BYTES)
    while part := file.read(MAX_FILE_BYTES):
        yield part


def _parts_inside(workspaces: "Workspaces", environment_id: str, path: str) -> Iterator[bytes]:
    """Yield what is in a file of an environment, in the same way."""
    offset = 0
    while True:
        part = workspaces.read(environment_id, path, offset=offset, limit=MAX_FILE_BYTES)
        yield part.content
        offset += len(part.content)
        if not part.content or offset >= part.size:
            return


def _write(path: str, inside: str, parts: Iterator[bytes]) -> None:
    """Write the parts of a file of an environment to this machine."""
    first = next(parts)  # Before anything is made here: there may be no such file.
    if path == "-":
        for part in chain([first], parts):
            output.write(part)
        return
    if os.path.isdir(path):
        path = os.path.join(path, os.path.basename(inside))
    with open(path, "wb") as file:
        for part in chain([first], parts):
            file.write(part)
