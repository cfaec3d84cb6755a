# SPDX-License-Identifier: Apache-2.0
"""The package keeps the rules of its architecture, and each rule notices what breaks it."""

import ast
import subprocess
import sys

import pytest

import waggle_fsstore
from tests import architecture
from tests.architecture import DISK, MODULES, ROOT, Rule, changes_of_files

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.sh"))

OF_MODULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        architecture.imports_point_one_way,
        architecture.store_imports_point_down,
        architecture.third_party_packages_have_one_importer,
        architecture.domain_is_standard_library_only,
        architecture.format_does_no_io,
        architecture.only_disk_changes_files,
        architecture.intervals_have_one_clock,
        architecture.modules_are_short,
        architecture.functions_are_short,
    )
}
OF_TESTS: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        architecture.tests_say_what_they_show,
        architecture.tests_have_different_names,
        architecture.tests_name_subject_and_outcome,
    )
}


def sources(*directories: str) -> list[str]:
    paths = [path for name in directories for path in (ROOT / name).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def violations(rules: dict[str, Rule], name: str, source: str) -> dict[str, list[str]]:
    found = {rule: list(check(name, source)) for rule, check in rules.items()}
    return {rule: broken for rule, broken in found.items() if broken}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_rules(module: str) -> None:
    """No module of the package breaks a rule."""
    assert violations(OF_MODULES, module, MODULES[module].read_text()) == {}


@pytest.mark.parametrize("path", sources("waggle_fsstore", "tests", "benchmarks"))
def test_source_has_header(path: str) -> None:
    """Each source file says its licence, and then in one line what it is."""
    assert list(architecture.sources_have_headers(path, (ROOT / path).read_text())) == []


@pytest.mark.parametrize("path", ["Makefile", "pyproject.toml", ".ci/run", *SCRIPTS])
def test_script_has_licence(path: str) -> None:
    """So does each other file that is run or read by a tool."""
    assert "# SPDX-License-Identifier: Apache-2.0" in (ROOT / path).read_text().splitlines()[:2]


@pytest.mark.parametrize("path", sources("tests", "waggle_fsstore/testing"))
def test_tests_keep_rules(path: str) -> None:
    """No test, and no contract, breaks a rule."""
    assert violations(OF_TESTS, path, (ROOT / path).read_text()) == {}


# Planted violations: a module, and a source that would break the rule in it.

_LONG_FUNCTION = "def f():\n" + "    f()\n" * (architecture.MAX_FUNCTION_LINES + 1)
_STORE = "waggle_fsstore.store"

VIOLATIONS: list[tuple[Rule, str, str]] = [
    (architecture.imports_point_one_way, f"{_STORE}.x", "import waggle_fsstore.cli"),
    (architecture.imports_point_one_way, f"{_STORE}.x", "from waggle_fsstore import wiring"),
    (architecture.imports_point_one_way, f"{_STORE}.x", "def f():\n    import waggle_fsstore"),
    (
        architecture.imports_point_one_way,
        "waggle_fsstore.domain.x",
        "from waggle_fsstore.store.file_store import FileStore",
    ),
    (
        architecture.imports_point_one_way,
        "waggle_fsstore.service.x",
        "from waggle_fsstore.provider.local import LocalProvider",
    ),
    (
        architecture.imports_point_one_way,
        "waggle_fsstore.cli.x",
        "from waggle_fsstore import testing",
    ),
    (architecture.imports_point_one_way, "waggle_fsstore.cli.x", "from . import app"),
    (
        architecture.store_imports_point_down,
        f"{_STORE}.format.x",
        "from waggle_fsstore.store.fs import disk",
    ),
    (
        architecture.store_imports_point_down,
        f"{_STORE}.fs.x",
        "from waggle_fsstore.store.journal.lines import scan",
    ),
    (
        architecture.store_imports_point_down,
        f"{_STORE}.read.x",
        "import waggle_fsstore.store.write.batch",
    ),
    (
        architecture.store_imports_point_down,
        f"{_STORE}.maintenance.x",
        "from waggle_fsstore.store.file_store import FileStore",
    ),
    (
        architecture.store_imports_point_down,
        f"{_STORE}.journal.x",
        "from waggle_fsstore.store import memory_store",
    ),
    (
        architecture.store_imports_point_down,
        f"{_STORE}.server_lock",
        "from waggle_fsstore.store.file_store import FileStore",
    ),
    (architecture.intervals_have_one_clock, f"{_STORE}.x", "import time\ntime.monotonic()"),
    (architecture.intervals_have_one_clock, f"{_STORE}.x", "from time import monotonic"),
    (architecture.third_party_packages_have_one_importer, f"{_STORE}.x", "import orjson"),
    (architecture.third_party_packages_have_one_importer, f"{_STORE}.x", "import numpy.random"),
    (
        architecture.third_party_packages_have_one_importer,
        "waggle_fsstore.serverless",
        "from mcp.server import Server",
    ),
    (architecture.domain_is_standard_library_only, "waggle_fsstore.domain.x", "import orjson"),
    (architecture.format_does_no_io, f"{_STORE}.format.x", "import os\nos.stat('f')"),
    (architecture.format_does_no_io, f"{_STORE}.format.x", "import os\nos.path.exists('f')"),
    (architecture.format_does_no_io, f"{_STORE}.format.x", "from os import stat"),
    (architecture.format_does_no_io, f"{_STORE}.format.x", "from os.path import exists"),
    (architecture.format_does_no_io, f"{_STORE}.format.x", "import os.path as p"),
    (architecture.format_does_no_io, f"{_STORE}.format.x", "from pathlib import Path"),
    (architecture.format_does_no_io, f"{_STORE}.format.x", "open('f')"),
    (architecture.sources_have_headers, "x", '"""A module."""'),
    (architecture.sources_have_headers, "x", "# SPDX-License-Identifier: Apache-2.0\n"),
    (
        architecture.sources_have_headers,
        "x",
        '# SPDX-License-Identifier: Apache-2.0\n"""A module\nis this."""',
    ),
    (architecture.modules_are_short, "x", "x = 1\n" * (architecture.MAX_MODULE_LINES + 1)),
    (architecture.functions_are_short, "x", _LONG_FUNCTION),
    (architecture.functions_are_short, "x", f"async {_LONG_FUNCTION}"),
    (architecture.tests_say_what_they_show, "x", "def test_store_works():\n    pass"),
    (
        architecture.tests_say_what_they_show,
        "x",
        "class C:\n    async def test_store_works(self):\n        pass",
    ),
    (architecture.tests_name_subject_and_outcome, "x", "def test_twice():\n    pass"),
    (architecture.tests_name_subject_and_outcome, "x", "def test_a_damaged_journal():\n    pass"),
    (
        architecture.tests_have_different_names,
        "x",
        "def test_store_works():\n    pass\n\ndef test_store_works():\n    pass",
    ),
    *(
        (architecture.only_disk_changes_files, f"waggle_fsstore.{part}.x", source)
        for part in ("store", "server")
        for source in (
            "import os\nos.unlink('f')",
            "import os\nremove = os.unlink",
            "import shutil\nshutil.rmtree('d')",
            "from os import fsync",
            "from pathlib import Path\nPath.mkdir(path)",
            "path.write_text('x')",
            "open('f', 'w')",
            "open('f', mode='r+b')",
            "open('f', mode)",
            "import os\nos.open('f', os.O_RDONLY | os.O_CREAT)",
        )
    ),
]


@pytest.mark.parametrize(
    ("rule", "module", "source"), VIOLATIONS, ids=lambda value: getattr(value, "__name__", None)
)
def test_rule_notices_violation(rule: Rule, module: str, source: str) -> None:
    """Each rule finds what it is there to find."""
    assert list(rule(module, source)) != []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (
            architecture.store_imports_point_down,
            f"{_STORE}.maintenance.x",
            "from waggle_fsstore.store.fs import disk\nimport waggle_fsstore.store.maintenance.y",
        ),
        (
            architecture.format_does_no_io,
            f"{_STORE}.format.x",
            "import os\nos.path.join('d', os.path.basename('f')) + os.sep",
        ),
        (
            architecture.only_disk_changes_files,
            f"{_STORE}.x",
            "import os\nopen('f', 'rb').read()\nos.open('f', os.O_RDONLY)\n'x'.replace('x', 'y')",
        ),
        (
            architecture.modules_are_short,
            "x",
            '"""A module.\n' + "\n" * 500 + '"""\n' + "# why\n\n" * 500,
        ),
        (architecture.functions_are_short, "x", 'def f():\n    """Say.\n' + "\n" * 50 + '    """'),
        (
            architecture.tests_have_different_names,
            "x",
            "class A:\n  def test_it_works(self): ...\nclass B:\n  def test_it_works(self): ...",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_rule_allows_all_else(rule: Rule, module: str, source: str) -> None:
    """What a rule does not forbid is no violation of it."""
    assert list(rule(module, source)) == []


def test_disk_is_where_files_change() -> None:
    """The search for changes of files finds those that are made."""
    found = set(changes_of_files(MODULES[DISK].read_text()))
    assert {"os.replace", "os.unlink", "os.fsync", "os.mkdir", "os.pwrite"} <= found


def test_allowed_changes_are_made() -> None:
    """An exception is removed with the code that needed it."""
    for module, use in architecture.ALLOWED_CHANGES:
        assert use in changes_of_files(MODULES[module].read_text())


def test_parts_and_floors_exist() -> None:
    """The rules speak of all parts of the package, and of no others."""
    parts = {architecture.part(module) for module in MODULES}
    assert parts == set(architecture.MAY_IMPORT)
    assert parts >= architecture.UNCHANGING
    below = {module.split(".")[2] for module in MODULES if module.startswith(f"{_STORE}.")}
    packages = {name for name in below if MODULES[f"{_STORE}.{name}"].name == "__init__.py"}
    assert packages == set(architecture.STORE_FLOORS)


IMPORT = """
import sys
import waggle_fsstore
assert not [m for m in sys.modules if m.startswith("waggle_fsstore.")], "not lazy"
from waggle_fsstore import *
heavy = {"asyncio", "click", "rich", "mcp", "pytest", "sqlite3", "hypothesis", "socket"}
print(sorted(heavy & set(sys.modules)))
"""


def test_import_is_light() -> None:
    """Importing the package, all of its public names included, brings in nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_public_names_exist_in_order() -> None:
    """What is promised exists, is listed once and in order, and comes from one place."""
    names = waggle_fsstore.__all__
    assert names == sorted(set(names))
    assert set(names) == set(waggle_fsstore._HOME_OF)
    assert set(names) <= set(dir(waggle_fsstore))
    for name in names:
        assert getattr(waggle_fsstore, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        waggle_fsstore.missing  # noqa: B018


def test_names_for_type_checkers_are_the_public_names() -> None:
    """What a type checker sees in the package is what Python finds there."""
    tree = ast.parse(MODULES["waggle_fsstore"].read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: (node.module or "").removeprefix("waggle_fsstore.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == waggle_fsstore._HOME_OF
