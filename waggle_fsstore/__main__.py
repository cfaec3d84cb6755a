# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``python -m waggle_fsstore``: the command line."""

from waggle_fsstore.cli import main

if __name__ == "__main__":
    main()
