# SPDX-License-Identifier: Apache-2.0
"""The directories of workspaces: their names, their modes and their place."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.provider.conftest import (
    HOSTILE_IDS,
    NODE,
    PYTHON,
    SHELL,
    entries_of,
    environment,
    mode_of,
    needs_node,
    umask,
)
from waggle_fsstore import ProviderError
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.workspace_dirs import dir_name

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(is_id)
short_ids = st.text("aA.-_~/\0\N{KELVIN SIGN}k", min_size=1, max_size=4).filter(is_id)


@pytest.mark.parametrize("mask", [0, 0o777])
def test_modes_ignore_umask(tmp_path: Path, mask: int) -> None:
    """Directories and files are private, whatever the umask of the server is."""
    provider = LocalProvider(tmp_path / "data" / "root")
    with umask(mask):
        provider.create(PYTHON)
    workspace = tmp_path / "data" / "root" / "a"
    for directory in (
        tmp_path / "data",
        tmp_path / "data" / "root",
        workspace,
        workspace / "home",
        workspace / "tmp",
        workspace / "home" / ".venv",
    ):
        assert mode_of(directory) == 0o700
    assert mode_of(workspace / ".waggle-workspace") == 0o600
    assert mode_of(workspace / "home" / ".venv" / "pyvenv.cfg") == 0o600


@needs_node
def test_package_file_is_private_and_writable(provider: LocalProvider, root: Path) -> None:
    """The package file is private too, and stays writable."""
    with umask(0):
        provider.create(NODE)
    assert mode_of(root / "a" / "home" / "package.json") == 0o600


def test_existing_root_keeps_its_mode(provider: LocalProvider, root: Path) -> None:
    """The operator who made the root directory has chosen its mode."""
    root.mkdir()
    root.chmod(0o755)
    provider.create(SHELL)
    assert mode_of(root) == 0o755
    assert mode_of(root / "a") == 0o700


@pytest.mark.parametrize("id_", HOSTILE_IDS)
def test_hostile_id_has_directory_below_root(provider: LocalProvider, root: Path, id_: str) -> None:
    """Any id has its own directory in the root directory, which can be made and removed."""
    provider.create(environment("a"))
    provider.create(environment(id_))
    assert Path(provider.locate(environment(id_))).parent.parent == root
    assert len(entries_of(root)) == 2
    provider.probe(environment(id_))
    assert provider.find_orphans(["a", id_]) == []
    provider.remove(environment(id_))
    assert entries_of(root) == ["a"]


@given(st.lists(ids | short_ids, unique=True, min_size=2, max_size=5))
def test_directories_are_distinct_children_of_root(some: list[str]) -> None:
    """Distinct ids have distinct directories right below the root, also if case is ignored."""
    provider = LocalProvider("/root")
    paths = [os.path.dirname(provider.locate(environment(id_))) for id_ in some]
    assert all(os.path.dirname(os.path.normpath(path)) == "/root" for path in paths)
    assert all(len(os.path.basename(path).encode()) <= 100 for path in paths)
    assert len({path.casefold() for path in paths}) == len(some)


@pytest.mark.parametrize("id_", ["a", "0a2ae22e-cf09-4ed5-9a57-04d2cd548ca0", "x_y", "x" * 100])
def test_plain_id_is_its_own_directory_name(id_: str) -> None:
    """A user finds the directory of a plain id at once."""
    assert dir_name(id_) == id_


def test_hashed_name_never_changes() -> None:
    """The name of a directory is the same in every version, or environments would be lost."""
    assert dir_name("a/b") == "~575aa62220a2c597f5def8d269b6acac"


def test_locate_uses_root_at_construction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root is resolved when the provider is constructed."""
    monkeypatch.chdir(tmp_path)
    provider = LocalProvider("root")
    monkeypatch.chdir("/")
    assert provider.locate(SHELL) == str(tmp_path / "root" / "a" / "home")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_root_that_cannot_be_made_is_reported() -> None:
    """If no directory can be made, the creation raises instead of trying for ever."""
    provider = LocalProvider("/proc/waggle/workspaces")
    with pytest.raises(ProviderError, match="No such file or directory"):
        provider.create(SHELL)
