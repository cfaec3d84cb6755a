# SPDX-License-Identifier: Apache-2.0
"""The verbs on a whole store in a folder: fsck, snapshot, restore, history prune, info."""

import os
import re
from collections import Counter
from dataclasses import fields
from typing import Annotated, Any, Final

import typer

from waggle_fsstore.cli import output
from waggle_fsstore.cli.audit_options import Actor, Reason, author
from waggle_fsstore.cli.completion import complete_id
from waggle_fsstore.cli.exit_codes import EXPECTED, ExitCode, FsckBit
from waggle_fsstore.cli.progress import awaited, working
from waggle_fsstore.cli.store_option import Target, in_a_folder, refusals
from waggle_fsstore.cli.table import write_table
from waggle_fsstore.domain.finding import Severity
from waggle_fsstore.store.format.canonical_json import compact

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

_is_size: Final = re.compile(r"([0-9]{1,15})([KMGT]?)").fullmatch


def fsck(
    ctx: typer.Context,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend what can be mended. Nothing is ever deleted by it."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON objects, one a line.")] = False,
    actor: Actor = None,
    reason: Reason = None,
) -> None:
    """Look for what is wrong with the store.

    The exit code is a sum, as that of fsck(8): 1 errors were repaired, 4 errors are left,
    8 it could not look everywhere, 16 wrong usage. Warnings do not count.
    """
    if not repair and (actor, reason) != (None, None):
        raise typer.BadParameter("--actor and --reason belong to --repair")
    target: Target = ctx.obj
    seen: Counter[tuple[Severity, bool]] = Counter()
    failed = False
    with author(actor, reason):
        try:
            with in_a_folder(target.open_to_read()) as store:
                for finding in awaited(store.repair() if repair else store.check(), "checking"):
                    seen[finding.severity, finding.is_repaired] += 1
                    if json:
                        output.write_json(compact(_values(finding)) + b"\n")
                    else:
                        output.write_lines([str(finding)])
        except BrokenPipeError:
            output.give_up()
            failed = True
        except EXPECTED as error:
            output.report(error)
            failed = True
    repaired, left = seen[Severity.ERROR, True], seen[Severity.ERROR, False]
    if not failed:
        warnings = seen[Severity.WARNING, True] + seen[Severity.WARNING, False]
        of_them = f", {repaired} of them repaired" if repaired or left else ""
        errors = _many(repaired + left, "error")
        output.note(f"{errors}{of_them}; {_many(warnings, 'warning')}")
    raise typer.Exit(
        (FsckBit.CORRECTED if repaired else 0)
        | (FsckBit.LEFT if left else 0)
        | (FsckBit.FAILED if failed else 0)
    )


def snapshot(
    ctx: typer.Context,
    dest: Annotated[
        str, typer.Argument(metavar="DEST", help="A folder that is empty or does not exist yet.")
    ],
) -> None:
    """Copy all environments as of one moment.

    Others may write meanwhile.
    The copy is a store of its own, with a SHA256SUMS that sha256sum -c accepts.
    Files that cannot be read are left out and reported; the exit code is then 6.
    """
    _refuse_nowhere(dest)
    broken: list[Exception] = []
    target: Target = ctx.obj
    with in_a_folder(target.open_to_read()) as store, working("copying"), refusals():
        made = store.snapshot(dest, on_corrupt=broken.append)
    count = _many(made.count, "environment")
    output.write_lines([f"{made.path}: {count} as of change {made.seq}"])
    for error in broken:
        output.report(error)
    if broken:
        raise typer.Exit(ExitCode.CORRUPT)


def restore(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE|ID",
            help="The folder of a snapshot; with --revision, the exact id of an environment.",
            autocompletion=complete_id,
        ),
    ],
    revision: Annotated[
        int | None,
        typer.Option(metavar="N", help="Bring back this version of one environment."),
    ] = None,
    actor: Actor = None,
    reason: Reason = None,
) -> None:
    """Go back to a snapshot, or to an old version of one.

    The history goes on: it has the restored versions as new ones, so that this too can be
    undone. Prints how many environments changed, or with --revision the new revision.
    """
    target: Target = ctx.obj
    with author(actor, reason), in_a_folder(target.open()) as store:
        if revision is not None:
            done = str(store.restore_revision(source, revision).revision)
        else:
            _refuse_nowhere(source)
            with working("restoring"):
                restored: Any = store.restore(source)
            done = ", ".join(f"{getattr(restored, f.name)} {f.name}" for f in fields(restored))
    output.write_lines([done])


def history_prune(
    ctx: typer.Context,
    keep_days: Annotated[
        float | None,
        typer.Option(metavar="N", help="Keep what is younger than so many days."),
    ] = None,
    keep_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Keep so much of the newest, such as 500K, 10M or 1G."),
    ] = None,
    gzip: Annotated[bool, typer.Option("--gzip", help="Compress what is kept.")] = False,
) -> None:
    """Remove old events; environments stay as they are.

    Only whole files of the journal are removed, and none that recovery may need.
    """
    if keep_days is None and keep_bytes is None and not gzip:
        raise typer.BadParameter("give at least one of --keep-days, --keep-bytes and --gzip")
    size = None if keep_bytes is None else _size(keep_bytes)
    target: Target = ctx.obj
    with in_a_folder(target.open_to_read()) as store, working("pruning"), refusals():
        pruned = store.prune_history(keep_days=keep_days, keep_bytes=size, compress=gzip)
    files = f"{_many(pruned.segments_removed, 'file')} removed, {pruned.segments_compressed}"
    freed = _many(pruned.bytes_freed, "byte")
    output.write_lines([f"{files} compressed, {freed} freed; the oldest change is {pruned.oldest}"])


def info(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="As a JSON object.")] = False,
) -> None:
    """Print sizes, journal, file system and durability."""
    target: Target = ctx.obj
    with in_a_folder(target.open_to_read()) as store:
        found = _values(store.info())
    if json:
        output.write_json(compact(found) + b"\n")
    else:
        write_table(("NAME", "VALUE"), ((name, _said(value)) for name, value in found.items()))


def _refuse_nowhere(path: str) -> None:
    """An empty variable is a usage error, and not the current folder."""
    if not path:
        raise typer.BadParameter("the path of the snapshot is empty")


def _values(found: Any) -> dict[str, Any]:
    """The fields of a dataclass, as JSON can have them."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    # A file name may be no text.
    return {**values, "path": os.fsencode(values["path"]).decode(errors="backslashreplace")}


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(text: str) -> int:
    """The bytes that a size such as ``10M`` says."""
    match = _is_size(text.upper())
    if match is None:
        raise typer.BadParameter(
            f"{text!r:.100} is no size: write one like 500K, 10M or 1G",
            param_hint="'--keep-bytes'",
        )
    return int(match[1]) * _UNITS[match[2]]
