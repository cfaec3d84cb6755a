# SPDX-License-Identifier: Apache-2.0
"""The program: global options, verbs, and the one place where errors become exit codes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from waggle_fsstore import __version__
from waggle_fsstore.cli import environments, events, maintenance, output, serve, undelete
from waggle_fsstore.cli.exit_codes import EXPECTED, ExitCode, FsckBit, code_of
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.store_option import StoreLocation

_PROGRAM: Final = "waggle-fsstore"
_HELP: Final = (
    "A durable store for agent environments, one readable JSON file each, with an MCP server, "
    "a CLI and pytest fixtures included.\n\n"
    "Data goes to stdout, everything else to stderr."
)
_EXIT_CODES: Final = (
    "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 lock timeout, 6 corrupt, "
    "130 interrupted, 141 reader gone. fsck uses its own exit codes."
)

# Its module differs between versions of Typer.
_UsageError: Final[Any] = typer.BadParameter.__base__


#: The names that docker and limactl have for some verbs.
_ALIASES: Final = {"list": "ls", "inspect": "show", "delete": "rm"}


class _VerbGroup(TyperGroup):
    """Runs a verb. An expected error is reported in one line and sets the exit code.

    A verb may have two words, such as ``history prune``, while its first word is a verb too.
    To pass the second word as an argument to the first verb, write ``--`` before it.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        both = " ".join(args[:2])
        if both in self.commands:
            return super().resolve_command(ctx, [both, *args[2:]])
        return super().resolve_command(ctx, [_ALIASES.get(args[0], args[0]), *args[1:]])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        # Shells complete one word at a time.
        return [item for item in super().shell_complete(ctx, incomplete) if " " not in item.value]

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _reported_errors():
            return super().make_context(*args, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(ExitCode.USAGE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _reported_errors(ctx):
            return super().invoke(ctx)


@contextmanager
def _reported_errors(ctx: Any = None) -> Iterator[None]:
    """Report an error of the block, unless it is a bug, and exit with its code."""
    try:
        yield
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else _PROGRAM
        message = " ".join(error.format_message().splitlines())
        output.report_error(message, details=[f"see: {command} --help"])
        is_fsck = ctx is not None and ctx.invoked_subcommand == "fsck"
        raise typer.Exit(FsckBit.USAGE if is_fsck else ExitCode.USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:  # The reader has seen enough.
        output.discard_stdout()
        raise typer.Exit(ExitCode.READER_GONE) from None
    except EXPECTED as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = "standard output"  # Typer writes the help.
            output.discard_stdout()
        output.report_error(error)
        raise typer.Exit(code_of(error)) from error


app: Final = typer.Typer(
    name=_PROGRAM,
    cls=_VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Frames only on a terminal, not in a log or a pager.
    rich_markup_mode="rich" if sys.stdout is not None and sys.stdout.isatty() else None,
    pretty_exceptions_enable=False,
    epilog=_EXIT_CODES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.write(f"{_PROGRAM} {__version__}\n")
        raise typer.Exit


@app.callback(help=_HELP)
def _options(
    ctx: typer.Context,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="LOCATION",
            help="The store: a path, file:PATH or memory:. Default: $WAGGLE_STORE_PATH, else "
            "$WAGGLE_DATA_DIR/store, else 'store' in the user data directory.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001  # The callback does the work.
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Store the global options for the verbs."""
    ctx.obj = StoreLocation(store)


_VERBS: Final[dict[str, Callable[..., None]]] = {
    "create": environments.create,
    "ls": environments.ls,
    "show": environments.show,
    "set": environments.set_,
    "rm": environments.rm,
    "undelete": undelete.undelete,
    "count": environments.count,
    "where": environments.where,
    "history": events.history,
    "events": events.events,
    "history prune": maintenance.history_prune,
    "fsck": maintenance.fsck,
    "snapshot": maintenance.snapshot,
    "restore": maintenance.restore,
    "info": maintenance.info,
    "serve": serve.serve,
}
for _name, _verb in _VERBS.items():
    app.command(_name, help=HELP[_name])(_verb)


def run() -> NoReturn:
    """Run the program on ``sys.argv`` and exit."""
    app(prog_name=_PROGRAM)
    raise AssertionError("Typer exits by itself")
