# SPDX-License-Identifier: Apache-2.0
"""The rules of the architecture: who may import whom, and who may change files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import waggle_fsstore

PACKAGE = Path(waggle_fsstore.__file__).parent
ROOT = PACKAGE.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

#: Each part of the package, and the parts that it may import. Others it may not.
MAY_IMPORT = {
    "domain": {"domain"},
    "store": {"store", "domain"},
    "service": {"service", "domain"},
    "provider": {"provider", "service", "domain"},
    "config": {"config", "domain"},
    "wiring": {"wiring", "config", "service", "provider", "store", "domain"},
    "cli": {"cli", "wiring", "config", "service", "provider", "store", "domain", "server", ""},
    "server": {"server", "wiring", "config", "service", "provider", "store", "domain", ""},
    "testing": {"testing", "domain"},
    "pytest_plugin": {"testing", ""},
    "__main__": {"cli"},
    "": {"wiring", "config", "domain", "provider", "service", "store"},
}

#: Third-party packages, and the only modules that may import them.
IMPORTERS = {
    "filelock": {"waggle_fsstore.store.fs.lock"},
    "orjson": {"waggle_fsstore.store.format.canonical_json"},
    "platformdirs": {"waggle_fsstore.config"},
    "typer": {"waggle_fsstore.cli"},
    "click": {"waggle_fsstore.cli"},
    "rich": {"waggle_fsstore.cli"},
    "anyio": {"waggle_fsstore.server"},
    "mcp": {"waggle_fsstore.server"},
    "pydantic": {"waggle_fsstore.server"},
    "starlette": {"waggle_fsstore.server"},
    "uvicorn": {"waggle_fsstore.server"},
    "pytest": {"waggle_fsstore.pytest_plugin", "waggle_fsstore.testing"},
}

#: The parts that change no files, but for ``store.disk``. A provider has workspaces of its own.
UNCHANGING = frozenset({"store", "domain", "service", "wiring", "config", "server"})

#: Calls that change files, or make changes durable.
CHANGING = frozenset(
    {
        "chmod",
        "chown",
        "copy",
        "copy2",
        "copy_file_range",
        "copyfile",
        "copytree",
        "fchmod",
        "fchown",
        "fdatasync",
        "fsync",
        "ftruncate",
        "link",
        "makedirs",
        "mkdir",
        "mkfifo",
        "move",
        "posix_fallocate",
        "pwrite",
        "pwritev",
        "remove",
        "removedirs",
        "rename",
        "renames",
        "replace",
        "rmdir",
        "rmtree",
        "sendfile",
        "symlink",
        "sync",
        "truncate",
        "unlink",
        "utime",
        "write",
        "writev",
    }
)


def imports(path: Path) -> Iterator[str]:
    """The modules that a module imports: of ``from a import b``, ``a.b`` if that is one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module or ""


def part(module: str) -> str:
    return f"{module}.".split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    """Edges import the wiring, the wiring the stores, the stores the domain, and nothing back."""
    imported = {part(name) for name in imports(MODULES[module]) if name in MODULES}
    assert imported <= MAY_IMPORT[part(module)]


@pytest.mark.parametrize("module", MODULES)
def test_third_party_packages_have_one_importer(module: str) -> None:
    """A third-party package can be replaced by changing one module."""
    for name in imports(MODULES[module]):
        package = name.partition(".")[0]
        if package == "waggle_fsstore" or package in sys.stdlib_module_names:
            continue
        assert package in IMPORTERS, f"{package} is no known dependency"
        assert any(f"{module}.".startswith(f"{owner}.") for owner in IMPORTERS[package])


def test_domain_is_standard_library_only() -> None:
    """The domain depends on nothing that could change under it."""
    for module, path in MODULES.items():
        if part(module) == "domain":
            packages = {name.partition(".")[0] for name in imports(path)} - {"waggle_fsstore"}
            assert packages <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "module",
    [
        module
        for module in MODULES
        if part(module) in {"store", "domain", "service", "wiring", "config"}
    ],
)
def test_only_disk_changes_files(module: str) -> None:
    """Whoever looks for the place where bytes hit the disk finds one module."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if function.value.id in {"os", "shutil", "Path"} and function.attr in CHANGING:
                found.add(function.attr)
            if (function.value.id, function.attr) == ("os", "open"):
                found.update(_writing_flags(node))
        if isinstance(function, ast.Name) and function.id == "open":
            mode = node.args[1].value if len(node.args) > 1 else "r"  # type: ignore[attr-defined]
            found.update(set(mode) & set("wax+"))
    assert not found or module == "waggle_fsstore.store.fs.disk"


def _writing_flags(call: ast.Call) -> set[str]:
    names = {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
    return names & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"}


def test_disk_is_where_files_change() -> None:
    """The search of the test above finds what it looks for."""
    source = MODULES["waggle_fsstore.store.fs.disk"].read_text()
    assert {"os.replace", "os.unlink", "os.fsync", "os.mkdir"} <= {
        ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    }


def sources() -> list[Path]:
    folders = ["waggle_fsstore", "tests", "benchmarks"]
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_headers(path: Path) -> None:
    """Each source file says its licence, and then in one line what it is."""
    lines = path.read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    doc = ast.get_docstring(ast.parse("\n".join(lines)))
    assert doc
    assert doc.splitlines()[0].rstrip().endswith((".", "?"))


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short(module: str) -> None:
    """A module answers one question."""
    assert len(MODULES[module].read_text().splitlines()) <= 400


def test_tests_say_what_they_show() -> None:
    """Each test has a sentence that says what holds if it passes."""
    folders = [ROOT / "tests", PACKAGE / "testing"]
    missing = [
        f"{path.name}: {node.name}"
        for folder in folders
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert missing == []


IMPORT = """
import sys
import waggle_fsstore
assert not [m for m in sys.modules if m.startswith("waggle_fsstore.")], "not lazy"
from waggle_fsstore import *
heavy = {"asyncio", "typer", "click", "rich", "mcp", "pytest", "sqlite3", "hypothesis", "socket"}
print(sorted(heavy & set(sys.modules)))
"""


def test_import_is_light() -> None:
    """Importing the package, all of its public names included, brings in nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_public_names() -> None:
    """What is promised exists, is listed once, and comes from one place."""
    names = waggle_fsstore.__all__
    assert names == sorted(set(names), key=names.index)
    assert set(names) == set(waggle_fsstore._HOME_OF)
    assert set(names) <= set(dir(waggle_fsstore))
    for name in names:
        assert getattr(waggle_fsstore, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        waggle_fsstore.missing  # noqa: B018


def test_names_for_type_checkers_are_the_public_names() -> None:
    """What a type checker sees in the package is what Python finds there."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: (node.module or "").removeprefix("waggle_fsstore.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == waggle_fsstore._HOME_OF
