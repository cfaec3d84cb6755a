# SPDX-License-Identifier: Apache-2.0
"""The bytes of the files of a store, to compare them before and after."""

from pathlib import Path


def documents(root: Path) -> dict[str, bytes]:
    """Return the bytes of the documents of a store or a snapshot, by file name."""
    paths = (root / "environments").iterdir()
    return {path.name: path.read_bytes() for path in sorted(paths)}


def contents(root: Path) -> dict[str, bytes]:
    """Return the contents of all files of a store that are worth keeping, by path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    ignored = {".waggle/lock", ".waggle/state"}
    by_name = {str(path.relative_to(root)): path for path in files}
    return {name: path.read_bytes() for name, path in by_name.items() if name not in ignored}
