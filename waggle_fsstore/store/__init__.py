# SPDX-License-Identifier: Apache-2.0
"""The stores of environments: files in a directory, or memory.

``file_store`` is FileStore, ``memory_store`` the reference model, ``server_lock`` says which
servers run and decides which one leads. Below them, each package imports only the ones after it:

- ``postgres``: PostgresStore, which takes from below the format and the checks of arguments;
- ``maintenance``: work on a whole store;
- ``write``: one change, from the lock to the rename;
- ``read``: what readers see;
- ``journal``: the write-ahead log;
- ``fs``: the operating system, the only place that writes, locks or syncs;
- ``format``: bytes and values, ids and file names, without I/O.
"""
