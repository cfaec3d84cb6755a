# SPDX-License-Identifier: Apache-2.0
"""The verbs on a whole store in a directory: fsck, snapshot, restore, history prune, info."""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.audit_options import audit_as, audit_options
from waggle_fsstore.cli.beside_server import force_option, refuse_beside_server
from waggle_fsstore.cli.completion import complete_id
from waggle_fsstore.cli.environment_ids import full_id
from waggle_fsstore.cli.exit_codes import EXPECTED, ExitCode, FsckBit
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.parse import number, parse_size, whole_number
from waggle_fsstore.cli.progress import progress_bar, with_progress
from waggle_fsstore.cli.store_option import (
    PersistentStore,
    StoreLocation,
    document_of,
    require_persistent,
    usage_errors,
)
from waggle_fsstore.cli.table import write_table
from waggle_fsstore.domain.finding import Severity
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.maintenance.copy import copy as copy_store
from waggle_fsstore.store.maintenance.last_check import MAX_FINDINGS, LastCheck


@click.command(help=HELP["fsck"])
@click.option("--repair", is_flag=True, help="Repair what can be repaired; nothing is deleted.")
@click.option("--json", is_flag=True, help="Print one JSON object per line.")
@audit_options
@click.pass_obj
def fsck(
    location: StoreLocation, repair: bool, json: bool, actor: str | None, reason: str | None
) -> None:
    """Check the store for errors."""
    if not repair and (actor, reason) != (None, None):
        raise click.BadParameter("--actor and --reason need --repair")
    seen: Counter[tuple[Severity, bool]] = Counter()
    lines: list[str] = []
    failed = False
    with audit_as(actor, reason):
        try:
            with require_persistent(location.open_to_read()) as store:
                for finding in with_progress(
                    store.repair() if repair else store.check(), "checking"
                ):
                    seen[finding.severity, finding.is_repaired] += 1
                    if len(lines) < MAX_FINDINGS:
                        lines.append(str(finding))
                    if json:
                        output.write_object(_fields(finding))
                    else:
                        output.write_lines([str(finding)])
                _keep(store, seen, lines)
        except BrokenPipeError:
            output.discard_stdout()
            failed = True
        except EXPECTED as error:
            output.report_error(error)
            failed = True
    repaired, left = seen[Severity.ERROR, True], seen[Severity.ERROR, False]
    if not failed:
        warnings = seen[Severity.WARNING, True] + seen[Severity.WARNING, False]
        of_them = f", {repaired} of them repaired" if repaired or left else ""
        errors = _plural(repaired + left, "error")
        output.print_status(f"{errors}{of_them}; {_plural(warnings, 'warning')}")
    raise click.exceptions.Exit(
        (FsckBit.CORRECTED if repaired else 0)
        | (FsckBit.LEFT if left else 0)
        | (FsckBit.FAILED if failed else 0)
    )


def _keep(store: PersistentStore, seen: Counter[tuple[Severity, bool]], lines: list[str]) -> None:
    """Keep the result for the page of the server. A disk that is full or read-only keeps none."""
    if not isinstance(store, FileStore) or not store.path.exists():
        return
    root = os.path.join(store.path, "")
    result = LastCheck(
        at=datetime.now(UTC),
        errors=seen[Severity.ERROR, False],
        warnings=seen[Severity.WARNING, False],
        repaired=seen[Severity.ERROR, True] + seen[Severity.WARNING, True],
        findings=tuple(line.replace(root, "") for line in lines),
    )
    with suppress(OSError):
        store.keep_last_check(result)


@click.command(help=HELP["snapshot"])
@click.argument("dest", help="A directory that is empty or does not exist.")
@output.json_option
@click.pass_obj
def snapshot(location: StoreLocation, dest: str, json: bool) -> None:
    """Copy all environments, as of one moment, to a new store."""
    _require_path(dest)
    broken: list[Exception] = []
    with (
        require_persistent(location.open_to_read()) as store,
        progress_bar("copying"),
        usage_errors(),
    ):
        made = store.snapshot(dest, on_corrupt=broken.append)
    count = _plural(made.count, "environment")
    _write(made, f"{made.path}: {count} as of change {made.seq}", json=json)
    for error in broken:
        output.report_error(error)
    if broken:
        raise click.exceptions.Exit(ExitCode.CORRUPT)


@click.command(help=HELP["restore"])
@click.argument(
    "source",
    metavar="SOURCE|ID",
    help="The directory of a snapshot; with --revision, the id of an environment.",
    shell_complete=complete_id,
)
@click.option(
    "--revision", metavar="N", type=whole_number, help="Restore this revision of one environment."
)
@output.json_option
@force_option
@audit_options
@click.pass_obj
def restore(
    location: StoreLocation,
    source: str,
    revision: int | None,
    json: bool,
    force: bool,
    actor: str | None,
    reason: str | None,
) -> None:
    """Restore a snapshot, or an old revision of one environment."""
    with audit_as(actor, reason), require_persistent(location.open()) as store:
        refuse_beside_server(store, force=force)
        if revision is not None:
            source = full_id(store, source, is_in_history=True)
            stored = store.restore_revision(source, revision)
            if json:
                output.write_json(document_of(store, stored))
            else:
                output.write_lines([str(stored.revision)])
        else:
            _require_path(source)
            with progress_bar("restoring"):
                restored = store.restore(source)
            numbers = _fields(restored).items()
            _write(restored, ", ".join(f"{number} {name}" for name, number in numbers), json=json)


@click.command(help=HELP["copy"])
@click.argument("source", metavar="FROM", help="The store to copy: a path or a database URL.")
@click.argument("target", metavar="TO", help="A new store, or one of an interrupted copy.")
@output.json_option
@force_option
def copy(source: str, target: str, json: bool, force: bool) -> None:
    """Copy a store with its history into another one."""
    _require_path(source)
    _require_path(target)
    with (
        require_persistent(StoreLocation(source).open_to_read()) as old,
        require_persistent(StoreLocation(target).open()) as new,
    ):
        refuse_beside_server(new, force=force)
        with progress_bar("copying"):
            copied = copy_store(old, new)
        done = f"{_plural(copied.changes, 'change')} copied"
        now = f"{_plural(copied.documents, 'environment')} on both sides"
        _write(copied, f"{done}, {now}, SHA-256 {copied.digest}", json=json)


@click.command("history prune", help=HELP["history prune"])
@click.option("--keep-days", metavar="N", type=number, help="Keep events younger than N days.")
@click.option(
    "--keep-bytes", metavar="SIZE", help="Keep the newest SIZE bytes, such as 500K, 10M or 1G."
)
@click.option("--gzip", is_flag=True, help="Compress the events that are kept.")
@output.json_option
@click.pass_obj
def history_prune(
    location: StoreLocation,
    keep_days: float | None,
    keep_bytes: str | None,
    gzip: bool,
    json: bool,
) -> None:
    """Remove old events from the history. Environments are unaffected."""
    if keep_days is None and keep_bytes is None and not gzip:
        raise click.BadParameter("give at least one of --keep-days, --keep-bytes and --gzip")
    size = None if keep_bytes is None else parse_size(keep_bytes)
    with (
        require_persistent(location.open_to_read()) as store,
        progress_bar("pruning"),
        usage_errors(),
    ):
        if isinstance(store, FileStore):
            pruned = store.prune_history(keep_days=keep_days, keep_bytes=size, compress=gzip)
            files = f"{_plural(pruned.segments_removed, 'file')} removed"
            freed = f"{_plural(pruned.bytes_freed, 'byte')} freed"
            done = f"{files}, {pruned.segments_compressed} compressed, {freed}"
            _write(pruned, f"{done}; the oldest change is {pruned.oldest}", json=json)
        elif keep_days is None or size is not None or gzip:
            raise click.BadParameter("a store in PostgreSQL takes --keep-days, and no other limit")
        else:
            removed = store.prune_history(keep_days=keep_days)
            done = f"{_plural(removed.changes_removed, 'change')} removed"
            _write(removed, f"{done}; the oldest change is {removed.oldest}", json=json)


@click.command(help=HELP["info"])
@output.json_option
@click.pass_obj
def info(location: StoreLocation, json: bool) -> None:
    """Print sizes, journal, file system and durability."""
    with require_persistent(location.open_to_read()) as store:
        found = _fields(store.info())
    if json:
        output.write_object(found)
    else:
        write_table(
            ("NAME", "VALUE"),
            ((name, _format_value(value)) for name, value in found.items()),
            is_cut=False,  # A path is copied whole.
        )


@click.command(help=HELP["schema"])
@click.option(
    "--from",
    "found",
    metavar="N",
    type=whole_number,
    help="Print what upgrades tables of this format instead.",
)
@output.json_option
def schema(found: int | None, json: bool) -> None:
    """Print the SQL that makes a store in PostgreSQL."""
    from waggle_fsstore.store.postgres.schema import SCRIPT, upgrade_script

    with usage_errors("'--from'"):
        sql = SCRIPT if found is None else upgrade_script(found)
    if json:
        output.write_object({"sql": sql})
    else:
        output.write(sql)


def _write(result: Any, text: str, *, json: bool) -> None:
    """Write a dataclass as JSON, or else the text."""
    if json:
        output.write_object(_fields(result))
    else:
        output.write_lines([text])


def _require_path(path: str) -> None:
    """Raise a usage error for an empty path, as an empty shell variable gives."""
    if not path:
        raise click.BadParameter("a path is empty")


def _fields(found: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values."""
    return {field.name: _json_value(getattr(found, field.name)) for field in fields(found)}


def _json_value(value: object) -> object:
    """Return a value as JSON knows it: a path may hold bytes that are not UTF-8."""
    if isinstance(value, (str, Path)):
        return os.fsencode(value).decode(errors="backslashreplace")
    return value


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
