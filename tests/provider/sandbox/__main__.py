# SPDX-License-Identifier: Apache-2.0
"""A table of all attacks, and what came of them: ``python -m tests.provider.sandbox``.

As root on Linux, it has a column for a server that runs as root, and one for a plain user.
"""

import os
import sys

from tests.provider.sandbox.batch import (
    NAMES,
    Result,
    open_to_all,
    run_all,
    run_all_as_plain_user,
)


def main() -> None:
    """Print the table, and why a column is missing."""
    columns: dict[str, dict[str, Result]] = {}
    with open_to_all() as directory:
        own = directory / "own"
        own.mkdir()
        columns["as root" if os.geteuid() == 0 else "as user"] = run_all(own)
        if os.geteuid() == 0:
            plain = directory / "plain"
            plain.mkdir()
            try:
                columns["as user"] = run_all_as_plain_user(plain)
            except LookupError as error:
                sys.stderr.write(f"as user: skipped: {error.args[0]}\n")
    rows = [["attack", *columns], ["---"] * (1 + len(columns))]
    for name in NAMES:
        cells = [_cell(results[name]) for results in columns.values() if name in results]
        rows += [[name, *cells]] if cells else []
    sys.stdout.write("".join(f"| {' | '.join(row)} |\n" for row in rows))


def _cell(result: Result) -> str:
    text = result.text.replace("|", "/").replace("\n", " ")
    return f"{'held' if result.is_held else '**open**'}: {text:.120}"


if __name__ == "__main__":
    main()
