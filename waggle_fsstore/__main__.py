# SPDX-License-Identifier: Apache-2.0
"""The command line, started as ``python -m waggle_fsstore``."""

from waggle_fsstore.cli import main

if __name__ == "__main__":
    main()
