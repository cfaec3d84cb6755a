# SPDX-License-Identifier: Apache-2.0
"""The verbs on environments: create, ls, show, set, rm, count, where."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.audit_options import audit_as, audit_options
from waggle_fsstore.cli.beside_server import force_option, refuse_beside_server
from waggle_fsstore.cli.completion import complete_id
from waggle_fsstore.cli.environment_ids import ShortIds, full_id, id_argument
from waggle_fsstore.cli.exit_codes import EXPECTED, ExitCode, code_of
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.parse import parse_labels, parse_timeout
from waggle_fsstore.cli.relative_time import short_duration, until_expiry
from waggle_fsstore.cli.store_option import (
    StoreLocation,
    document_of,
    place_of,
    raw_document,
    require_persistent,
)
from waggle_fsstore.cli.table import STATUS, no_trunc_option, without_empty_columns, write_table
from waggle_fsstore.config import why_temporary
from waggle_fsstore.domain.duration import format_timeout
from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    ProviderError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.domain.validation import title
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.memory_store import MemoryStore

# Only removals need it, and it takes as long to import as the rest of the program.
if TYPE_CHECKING:
    from waggle_fsstore.service.environments import EnvironmentService

Service: TypeAlias = "EnvironmentService"

_HEADER: Final = ("ID", "NAME", "RUNTIME", STATUS, "TIMEOUT", "LABELS")
_TERMINAL_HEADER: Final = ("ID", "NAME", "RUNTIME", STATUS, "AGE", "EXPIRES", "REASON", "LABELS")

_RUNTIMES: Final = click.Choice(Runtime, case_sensitive=False)
_STATUSES: Final = click.Choice(Status, case_sensitive=False)


class _UnchangedError(Exception):
    """Raised by a change that changes nothing, so that the update stores nothing."""


@click.command(help=HELP["create"])
@click.argument("name", required=False, help="Name. Default: RUNTIME-SHORTID.")
@click.option("--runtime", type=_RUNTIMES, default="python", show_default=True, help="Runtime.")
@click.option(
    "--timeout",
    metavar="DURATION",
    default="30m",
    show_default=True,
    help="Idle timeout, such as 1h30m; 0: never. (Only the server's tools have a limit.)",
)
@click.option(
    "--label", "labels", metavar="KEY=VALUE", multiple=True, help="Add a label; repeatable."
)
@output.json_option
@force_option
@audit_options
@click.pass_obj
def create(
    location: StoreLocation,
    name: str | None,
    runtime: Runtime,
    timeout: str,
    labels: tuple[str, ...],
    json: bool,
    force: bool,
    actor: str | None,
    reason: str | None,
) -> None:
    """Create an environment and print its id."""
    environment_id = str(uuid.uuid4())
    environment = Environment(
        id=environment_id,
        name=f"{runtime}-{environment_id[:8]}" if name is None else title("name", name),
        runtime=runtime,
        timeout=parse_timeout(timeout),
        labels=parse_labels(labels),
    )
    with audit_as(actor, reason), location.open() as store:
        refuse_beside_server(store, force=force, tool="create_environment")
        environment.revision = store.create(environment)
    if json:
        output.write_json(codec.encode(environment, environment.revision))
    else:
        output.write_lines([environment.id])


@click.command(help=HELP["ls"])
@click.option("--json", is_flag=True, help="Print a JSON array of documents.")
@click.option("--quiet", "-q", is_flag=True, help="Print only ids.")
@click.option("--status", type=_STATUSES, help="Filter by status.")
@click.option("--runtime", type=_RUNTIMES, help="Filter by runtime.")
@click.option(
    "--label",
    "labels",
    metavar="KEY=VALUE",
    multiple=True,
    help="Filter by label; repeat to require several.",
)
@no_trunc_option
@click.pass_obj
def ls(
    location: StoreLocation,
    json: bool,
    quiet: bool,
    status: Status | None,
    runtime: Runtime | None,
    labels: tuple[str, ...],
    no_trunc: bool,
) -> None:
    """List environments, sorted by id."""
    if json and quiet:
        raise click.BadParameter("choose one of --json and --quiet")
    wanted = parse_labels(labels)
    broken: list[Exception] = []
    with location.open_to_read() as store:
        stored = store.find_all(on_corrupt=broken.append)
        found = [
            environment
            for environment in stored
            if status in (None, environment.status)
            and runtime in (None, environment.runtime)
            and environment.has_labels(wanted)
        ]
    if json:
        output.write_json(codec.encode_array(found))
    elif quiet:
        output.write_lines(environment.id for environment in found)
    elif output.is_terminal():
        ids = ShortIds(environment.id for environment in stored)
        rows = [_terminal_row(one, one.id if no_trunc else ids.of(one.id)) for one in found]
        write_table(*without_empty_columns(_TERMINAL_HEADER, rows), is_cut=not no_trunc)
    else:
        write_table(_HEADER, map(_row, found))
    for error in broken:
        output.report_error(error)
    if broken:
        raise click.exceptions.Exit(ExitCode.CORRUPT)


@click.command(help=HELP["show"])
@id_argument
@click.option("--json", is_flag=True, expose_value=False, help="No effect: the file is JSON.")
@click.pass_obj
def show(location: StoreLocation, environment_id: str) -> None:
    """Print the file of an environment, byte for byte."""
    with location.open_to_read() as store:
        try:
            environment_id = full_id(store, environment_id)
            environment = store.find_by_id(environment_id)
        except (CorruptDocumentError, UnsupportedFormatError):
            data = b""
            if isinstance(store, FileStore):
                # A file that is not regular or is too large is not printed, only reported.
                with suppress(CorruptDocumentError, OSError):
                    data = raw_document(store, environment_id)
            output.write(data)
            raise
        output.write(document_of(store, environment))


@click.command("set", help=HELP["set"])
@id_argument
@click.option(
    "--status", type=_STATUSES, help="New status; it must be allowed after the present one."
)
@click.option("--name", metavar="NAME", help="New name.")
@click.option("--timeout", metavar="DURATION", help="New idle timeout, such as 1h30m; 0: never.")
@click.option(
    "--label",
    "labels",
    metavar="KEY=VALUE",
    multiple=True,
    help="Add or replace a label; repeatable.",
)
@click.option(
    "--unlabel",
    "removed",
    metavar="KEY",
    multiple=True,
    help="Remove a label if it exists; repeatable.",
)
@output.json_option
@force_option
@audit_options
@click.pass_obj
def set_(
    location: StoreLocation,
    environment_id: str,
    status: Status | None,
    name: str | None,
    timeout: str | None,
    labels: tuple[str, ...],
    removed: tuple[str, ...],
    json: bool,
    force: bool,
    actor: str | None,
    reason: str | None,
) -> None:
    """Change an environment atomically."""
    if status is None and name is None and timeout is None and not labels and not removed:
        raise click.BadParameter(
            "give at least one of --status, --name, --timeout, --label and --unlabel"
        )
    added = parse_labels(labels)
    new_timeout = None if timeout is None else parse_timeout(timeout)

    def change(environment: Environment) -> None:
        before = environment.copy()
        if status is not None and status != environment.status:
            environment.transition_to(status)
        if name is not None:
            environment.name = title("name", name)
        if new_timeout is not None:
            environment.timeout = new_timeout
        for key in removed:
            environment.labels.pop(key, None)
        environment.labels.update(added)
        if environment == before:
            raise _UnchangedError

    with audit_as(actor, reason), location.open() as store:
        if status is not None:
            refuse_beside_server(store, force=force)
        environment_id = full_id(store, environment_id)
        with suppress(_UnchangedError):
            store.update(environment_id, change)
        if json:
            output.write_json(document_of(store, store.find_by_id(environment_id)))


@click.command(help=HELP["rm"])
@click.argument(
    "environment_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    help="Ids, or unique prefixes.",
    shell_complete=complete_id,
)
@output.json_option
@force_option
@audit_options
@click.pass_obj
def rm(
    location: StoreLocation,
    environment_ids: tuple[str, ...],
    json: bool,
    force: bool,
    actor: str | None,
    reason: str | None,
) -> None:
    """Remove environments, with their workspaces."""
    first: Exception | None = None
    removed: list[str] = []
    with audit_as(actor, reason), location.open() as store:
        refuse_beside_server(store, force=force, tool="destroy_environment")
        # Before anything is removed, because a prefix may be ambiguous.
        ids = dict.fromkeys(full_id(store, given) for given in environment_ids)
        with _service_when_needed(store) as service:
            for environment_id in ids:
                try:
                    _remove(store, environment_id, service, force=force)
                    removed.append(environment_id)
                except EXPECTED as error:
                    output.report_error(error)
                    first = first or error
    if json:
        output.write_object({"removed": removed})
    if first is not None:
        raise click.exceptions.Exit(code_of(first))


@contextmanager
def _service_when_needed(store: TransactionalRepository) -> Iterator[Callable[[], Service]]:
    """Yield a function that opens the service once; wait until removed files are gone."""
    with ExitStack() as stack:

        @cache
        def open_once() -> Service:
            from waggle_fsstore.provider.local import LocalProvider
            from waggle_fsstore.wiring import open_service

            service = stack.enter_context(open_service(store, as_operator=True))
            if isinstance(service.provider, LocalProvider):
                # No server may come that would finish it.
                stack.callback(service.provider.wait_until_emptied)
            return service

        yield open_once


def _remove(
    store: TransactionalRepository,
    environment_id: str,
    service: Callable[[], Service],
    *,
    force: bool,
) -> None:
    """Remove an environment; if a provider of this machine made its workspace, that as well."""
    try:
        has_workspace = store.find_by_id(environment_id).provider is not None
    except EnvironmentNotFoundError:
        has_workspace = False
    except CorruptDocumentError:
        store.delete(environment_id)
        output.print_status(f"{environment_id}: moved to lost+found; a workspace is left behind")
        return
    if not has_workspace or isinstance(store, MemoryStore):
        store.delete(environment_id)
        return
    try:
        service().destroy(environment_id)
    except ProviderError as error:
        if not force:
            hint = "repeat with --force to remove only the record"
            raise ProviderError(error.provider, f"{error.reason}; {hint}") from error
        store.delete(environment_id)
        output.print_status(f"{environment_id}: its workspace is left behind: {error.reason}")


@click.command(help=HELP["count"])
@output.json_option
@click.pass_obj
def count(location: StoreLocation, json: bool) -> None:
    """Print the number of environments."""
    with location.open_to_read() as store:
        number = store.count()
    if json:
        output.write_object({"count": number})
    else:
        output.write(f"{number}\n")


@click.command(help=HELP["where"])
@output.json_option
@click.pass_obj
def where(location: StoreLocation, json: bool) -> None:
    """Print the path of the store, which need not exist."""
    with location.open() as store:
        is_memory = isinstance(store, MemoryStore)
        path = "memory:" if is_memory else place_of(require_persistent(store))
    if json:
        output.write_object({"path": path})
    else:
        # Not escaped, so that `cd "$(waggle-fsstore where)"` works. It comes from the user.
        output.write(os.fsencode(path) + b"\n")
    if isinstance(path, Path) and (warning := why_temporary(str(path))):
        output.print_status(f"Warning: {warning}")


def _terminal_row(environment: Environment, shown_id: str) -> Sequence[str]:
    now = datetime.now(UTC)
    return (
        shown_id,
        environment.name,
        environment.runtime,
        environment.status,
        short_duration(now - environment.created_at),
        until_expiry(environment, now),
        environment.status_reason,
        _labels(environment),
    )


def _labels(environment: Environment) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(environment.labels.items()))


def _row(environment: Environment) -> Sequence[str]:
    return (
        environment.id,
        environment.name,
        environment.runtime,
        environment.status,
        format_timeout(environment.timeout),
        _labels(environment),
    )
