# SPDX-License-Identifier: Apache-2.0
"""The program: global options, verbs, and the one place where errors become exit codes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click
from click.exceptions import Exit
from click.shell_completion import CompletionItem

from waggle_fsstore import __version__
from waggle_fsstore.cli import (
    environments,
    events,
    hosts,
    maintenance,
    output,
    serve,
    top,
    ui,
    undelete,
    workspaces,
)
from waggle_fsstore.cli.exit_codes import EXPECTED, ExitCode, FsckBit, code_of
from waggle_fsstore.cli.store_option import StoreLocation

_PROGRAM: Final = "waggle-fsstore"
_HELP: Final = (
    "A durable store for agent environments, one readable JSON file each, with an MCP server, "
    "a CLI and pytest fixtures included.\n\n"
    "Data goes to stdout, everything else to stderr."
)
_EXIT_CODES: Final = (
    "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 lock timeout, 6 corrupt, "
    "124 timed out, 130 interrupted, 141 reader gone. fsck uses its own exit codes, exec and shell "
    "those of the program."
)

#: The names that docker and limactl have for some verbs.
_ALIASES: Final = {"list": "ls", "inspect": "show", "delete": "rm"}


class _VerbGroup(click.Group):
    """Runs a verb. An expected error is reported in one line and sets the exit code.

    A verb may have two words, such as ``history prune``, while its first word is a verb too.
    To pass the second word as an argument to the first verb, write ``--`` before it.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        both = " ".join(args[:2])
        if both in self.commands:
            return super().resolve_command(ctx, [both, *args[2:]])
        return super().resolve_command(ctx, [_ALIASES.get(args[0], args[0]), *args[1:]])

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)  # In the order of a first reading.

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Shells complete one word at a time.
        return [item for item in super().shell_complete(ctx, incomplete) if " " not in item.value]

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _reported_errors():
            return super().make_context(*args, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            raise Exit(ExitCode.USAGE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with _reported_errors(ctx):
            return super().invoke(ctx)


@contextmanager
def _reported_errors(ctx: click.Context | None = None) -> Iterator[None]:
    """Report an error of the block, unless it is a bug, and exit with its code."""
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else _PROGRAM
        message = " ".join(error.format_message().splitlines())
        output.report_error(message, details=[f"see: {command} --help"])
        is_fsck = ctx is not None and ctx.invoked_subcommand == "fsck"
        raise Exit(FsckBit.USAGE if is_fsck else ExitCode.USAGE) from None
    except KeyboardInterrupt:
        raise Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:  # The reader has seen enough.
        output.discard_stdout()
        raise Exit(ExitCode.READER_GONE) from None
    except EXPECTED as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = "standard output"  # Click writes the help.
            output.discard_stdout()
        output.report_error(error)
        raise Exit(code_of(error)) from error


@click.group(
    _PROGRAM,
    cls=_VerbGroup,
    help=_HELP,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--store",
    metavar="LOCATION",
    help="The store: a path, file:PATH or memory:. Default: $WAGGLE_STORE_PATH, else "
    "$WAGGLE_DATA_DIR/store, else 'store' in the user data directory.",
)
@click.version_option(
    __version__,
    prog_name=_PROGRAM,
    message="%(prog)s %(version)s",
    help="Print the version and exit.",
)
@click.pass_context
def app(ctx: click.Context, store: str | None) -> None:
    """Store the global options for the verbs."""
    ctx.obj = StoreLocation(store)


_VERBS: Final[tuple[click.Command, ...]] = (
    environments.create,
    environments.ls,
    environments.show,
    environments.set_,
    environments.rm,
    undelete.undelete,
    workspaces.exec_,
    workspaces.cp,
    workspaces.shell,
    environments.count,
    environments.where,
    events.history,
    events.events,
    top.top,
    maintenance.history_prune,
    maintenance.fsck,
    maintenance.snapshot,
    maintenance.restore,
    maintenance.copy,
    maintenance.info,
    maintenance.schema,
    hosts.host_ls,
    hosts.host_remove,
    serve.serve,
    ui.ui,
)
for _verb in _VERBS:
    app.add_command(_verb)


def run() -> NoReturn:
    """Run the program on ``sys.argv`` and exit."""
    app(prog_name=_PROGRAM)
    raise AssertionError("Click exits by itself")
