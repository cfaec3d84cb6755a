# SPDX-License-Identifier: Apache-2.0
"""The machine: the hardware and software that the figures of a run apply to."""

import os
import platform
import re
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo: see proc_pid_mountinfo(5)."""

    point: str
    type: str
    options: str
    device: str


def describe(directory: Path) -> dict[str, str]:
    """Return facts about this machine and the file system of a directory, without any path."""
    mount = _mount(directory)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "load before": f"{os.getloadavg()[0]:.2f} in the last minute",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file system": _file_system(mount),
        "versions": ", ".join(
            [
                f"waggle-fsstore {_version('waggle-fsstore')}",
                f"SQLite {sqlite3.sqlite_version}",
                f"lmdb {_version('lmdb')}{_lmdb_library()}",
                *(f"{name} {_version(name)}" for name in ("orjson", "filelock", "platformdirs")),
            ]
        ),
    }


def file_system_type(directory: Path) -> str:
    """Return the type of the file system that a directory is on."""
    return _mount(directory).type


def _mount(directory: Path) -> Mount:
    """Return the mount of a directory: the longest mount point above it, of equals the last."""
    found = Mount("", "unknown", "", "")
    path = os.path.realpath(directory)
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            fields = left.split()
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
            if len(point) < len(found.point) or os.path.commonpath((path, point)) != point:
                continue
            kind, source, of_super_block = right.split()[:3]
            options = dict.fromkeys([*fields[5].split(","), *of_super_block.split(",")])
            # Some options (of overlay) contain paths, which do not affect the speed.
            kept = ",".join(option for option in options if "/" not in option)
            found = Mount(point, kind, kept, os.path.basename(source))
    return found


def _file_system(mount: Mount) -> str:
    facts = [f"{mount.type} ({mount.options})"]
    if mount.type == "ext4":
        with suppress(OSError):
            task = Path("/sys/fs/ext4", mount.device, "journal_task").read_text().strip()
            facts.append("with a journal" if task.isdigit() else "without a journal")
    with suppress(OSError):
        cache = Path("/sys/block", mount.device, "queue/write_cache").read_text().strip()
        facts.append(f"device {mount.device}, its write cache: {cache}")
    return ", ".join(facts)


def _processor() -> str:
    with suppress(OSError):
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _lmdb_library() -> str:
    try:
        import lmdb
    except ImportError:
        return ""
    return f" (library {'.'.join(str(part) for part in lmdb.version())})"
