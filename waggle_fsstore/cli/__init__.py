# SPDX-License-Identifier: Apache-2.0
"""The command line ``waggle-fsstore``; needs the extra ``cli``.

Nothing of the extra is imported before :func:`main` runs, so that it can report what is
missing.
"""

import sys
from importlib import import_module
from typing import Final, NoReturn

_EXTRA_MODULES: Final = ("click", "rich")


def main() -> NoReturn:
    """Run the program on ``sys.argv`` and exit."""
    try:
        for module in _EXTRA_MODULES:
            import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(
            f"Error: {error}: install the command line: pip install '/path/to/clone[cli]', "
            "with the path of your clone of the repository"
        )
    from waggle_fsstore.cli.app import run

    run()
