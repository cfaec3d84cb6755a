# SPDX-License-Identifier: Apache-2.0
"""The settings: what the ``WAGGLE_*`` variables say, and what holds without them."""

import os
from collections.abc import Mapping

import platformdirs


def store_location(environ: Mapping[str, str] | None = None) -> str:
    """Where the store is: ``WAGGLE_STORE_PATH``, else ``store`` in the data folder.

    The data folder is ``WAGGLE_DATA_DIR``, else the user's data folder of the system for
    ``waggle``. An empty variable counts as unset.
    """
    variables = os.environ if environ is None else environ
    location = variables.get("WAGGLE_STORE_PATH")
    if location:
        return location
    folder = variables.get("WAGGLE_DATA_DIR")
    if not folder:
        folder = platformdirs.user_data_dir("waggle", appauthor=False)
    return os.path.join(folder, "store")
