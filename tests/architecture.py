# SPDX-License-Identifier: Apache-2.0
"""The rules of the architecture: each finds what breaks it in the source text of one module."""

import ast
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = "waggle_fsstore"

#: Each module of the package, and its file.
MODULES: Final = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}

#: Each part of the package, and the parts that it may import.
MAY_IMPORT: Final = {
    "domain": {"domain"},
    "store": {"store", "domain"},
    "service": {"service", "domain"},
    "provider": {"provider", "service", "domain"},
    "config": {"config", "domain"},
    "wiring": {"wiring", "config", "service", "provider", "store", "domain"},
    "cli": {"cli", "wiring", "config", "service", "provider", "store", "domain", "server", ""},
    "server": {"server", "wiring", "config", "service", "provider", "store", "domain", ""},
    "testing": {"testing", "service", "domain"},
    "pytest_plugin": {"testing", ""},
    "__main__": {"cli"},
    "": {"wiring", "config", "domain", "provider", "service", "store"},
}

#: The sub-packages of the store. Each imports itself and those before it. The modules beside
#: them are above all of them, and do not import each other.
STORE_FLOORS: Final = ("format", "fs", "journal", "read", "write", "maintenance", "postgres")
_TOP: Final = len(STORE_FLOORS)

#: Third-party packages, and the only modules that may import them.
IMPORTERS: Final[dict[str, tuple[str, ...]]] = {
    "filelock": ("waggle_fsstore.store.fs.lock",),
    "orjson": ("waggle_fsstore.store.format.canonical_json",),
    "psycopg": ("waggle_fsstore.store.postgres",),
    "platformdirs": ("waggle_fsstore.config",),
    "prometheus_client": ("waggle_fsstore.server.metrics",),
    "click": ("waggle_fsstore.cli",),
    "rich": ("waggle_fsstore.cli",),
    "anyio": ("waggle_fsstore.server",),
    "jinja2": ("waggle_fsstore.server.page.templates",),
    "httpx2": ("waggle_fsstore.server.forwarding",),
    "mcp": ("waggle_fsstore.server",),
    "pydantic": ("waggle_fsstore.server",),
    "starlette": ("waggle_fsstore.server",),
    "uvicorn": ("waggle_fsstore.server",),
    "pytest": ("waggle_fsstore.pytest_plugin", "waggle_fsstore.testing"),
}

#: The only module that changes the files of a store.
DISK: Final = "waggle_fsstore.store.fs.disk"

#: The parts of the package that change files only through ``DISK``. A provider is none of them:
#: it changes workspaces.
UNCHANGING: Final = frozenset({"store", "domain", "service", "wiring", "config", "server"})

#: What they use all the same, and why.
ALLOWED_CHANGES: Final = {
    ("waggle_fsstore.server.log", "os.write"): "standard error",
}

#: Functions of ``os`` and ``shutil``, and methods of ``Path``, that change files or fsync them.
CHANGING: Final = frozenset(
    {
        *("chmod", "chown", "fchmod", "fchown", "lchown", "utime", "setxattr", "removexattr"),
        *("copy", "copy2", "copy_file_range", "copyfile", "copytree", "move", "sendfile"),
        *("fdatasync", "fsync", "sync", "ftruncate", "truncate", "posix_fallocate"),
        *("link", "symlink", "mkdir", "makedirs", "mkfifo", "mknod"),
        *("remove", "removedirs", "rmdir", "rmtree", "unlink"),
        *("rename", "renames", "replace"),
        *("write", "writev", "pwrite", "pwritev"),
    }
)
#: Methods of ``Path`` that are known by their name alone, whatever the object is called.
PATH_METHODS: Final = frozenset({"write_text", "write_bytes", "symlink_to", "hardlink_to"})

OPEN_TO_WRITE: Final = frozenset({"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"})

#: What ``format`` may use of ``os``: names of files, and no files.
NAMES_ONLY: Final = frozenset({"path", "sep", "path.join", "path.basename", "path.dirname"})
#: Modules that read or write, or start what does.
IO_MODULES: Final = frozenset(
    {"fcntl", "glob", "io", "mmap", "pathlib", "shutil", "socket", "subprocess", "tempfile"}
)

CLOCK: Final = "waggle_fsstore.domain.clock"

#: Clocks of the module ``time`` that tests freeze.
FROZEN_CLOCKS: Final = frozenset(
    {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time_ns"}
)

MAX_MODULE_LINES: Final = 400
MAX_FUNCTION_LINES: Final = 40

Rule = Callable[[str, str], Iterator[str]]


def imports(source: str) -> Iterator[str]:
    """Yield the modules that a source imports: of ``from a import b``, ``a.b`` if that is one."""
    for node in _walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                name = f"{module}.{alias.name}"
                yield name if name in MODULES else module


def part(module: str) -> str:
    """Return the first name below the package: ``store`` of ``waggle_fsstore.store.fs.disk``."""
    return f"{module}.".split(".")[1]


@cache
def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that are code: no comment, no docstring, not blank."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type not in layout | {tokenize.ENDMARKER}:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in _walk(source):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())) as docstring, *_]:
                    lines.difference_update(
                        range(docstring.lineno, (docstring.end_lineno or 0) + 1)
                    )
    return lines


def imports_point_one_way(module: str, source: str) -> Iterator[str]:
    """Edges import the wiring, the wiring the stores, the stores the domain, and nothing back."""
    for name in imports(source):
        if name.startswith("."):
            yield f"{name}: imports are absolute"
        elif _is_in(name, PACKAGE) and part(name) not in MAY_IMPORT[part(module)]:
            yield name


def store_imports_point_down(module: str, source: str) -> Iterator[str]:
    """Inside the store too, each floor imports itself and the floors below it."""
    if part(module) == "store":
        highest = _floor(module) if _floor(module) < _TOP else _TOP - 1
        for name in imports(source):
            if _is_in(name, f"{PACKAGE}.store") and _floor(name) > highest:
                yield name


def third_party_packages_have_one_importer(module: str, source: str) -> Iterator[str]:
    """A third-party package can be replaced by changing one module or one sub-package."""
    for name in _third_party(source):
        owners = IMPORTERS.get(name.partition(".")[0], ())
        if not any(_is_in(module, owner) for owner in owners):
            yield name


def domain_is_standard_library_only(module: str, source: str) -> Iterator[str]:
    """The domain depends on nothing that could change under it."""
    if part(module) == "domain":
        yield from _third_party(source)


def format_does_no_io(module: str, source: str) -> Iterator[str]:
    """What converts between bytes and values can be tested, and read, without a file."""
    if not _is_in(module, f"{PACKAGE}.store.format"):
        return
    for name in imports(source):
        if name.partition(".")[0] in IO_MODULES or name.startswith("os."):
            yield name
    for node in _walk(source):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield "from os"
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("os."):
            if ast.unparse(node).removeprefix("os.") not in NAMES_ONLY:
                yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id == "open":
            yield "open"


def only_disk_changes_files(module: str, source: str) -> Iterator[str]:
    """One module is where bytes hit the disk."""
    if part(module) in UNCHANGING and module != DISK:
        for use in changes_of_files(source):
            if (module, use) not in ALLOWED_CHANGES:
                yield use


def changes_of_files(source: str) -> Iterator[str]:
    """Yield each use of a function that changes files, and each opening to write."""
    for node in _walk(source):
        match node:
            case ast.ImportFrom(module="os" | "shutil" as module):
                for alias in node.names:
                    if alias.name in CHANGING | {"open"}:
                        yield f"from {module} import {alias.name}"
            case ast.Attribute(ast.Name("os" | "shutil" | "Path" as owner), name):
                if name in CHANGING:
                    yield f"{owner}.{name}"
            case ast.Attribute(_, name) if name in PATH_METHODS:
                yield name
            case ast.Call(ast.Attribute(ast.Name("os"), "open")):
                names = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                yield from sorted(names & OPEN_TO_WRITE)
            case ast.Call(ast.Name("open")):
                if set(_mode(node)) & set("wax+"):
                    yield ast.unparse(node)


def intervals_have_one_clock(module: str, source: str) -> Iterator[str]:
    """No timeout and no interval depends on a clock that a test freezes."""
    if module == CLOCK:
        return
    for node in _walk(source):
        match node:
            case ast.ImportFrom(module="time"):
                yield from (alias.name for alias in node.names if alias.name in FROZEN_CLOCKS)
            case ast.Attribute(ast.Name("time"), name) if name in FROZEN_CLOCKS:
                yield f"time.{name}"


def sources_have_headers(_: str, source: str) -> Iterator[str]:
    """Each source file says its licence, and then in one line what it is."""
    if not source.startswith("# SPDX-License-Identifier: Apache-2.0\n"):
        yield "no licence"
    first = (ast.get_docstring(_parse(source)) or "").partition("\n")[0]
    if not first.endswith((".", "?")):
        yield f"no docstring that begins with a sentence: {first!r}"


def modules_are_short(_: str, source: str) -> Iterator[str]:
    """A module answers one question."""
    if (count := len(code_lines(source))) > MAX_MODULE_LINES:
        yield f"{count} lines of code"


def functions_are_short(_: str, source: str) -> Iterator[str]:
    """A function fits on a screen; what it takes, the signature, is not counted."""
    code = code_lines(source)
    for node in _functions(source):
        body = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        if (count := len(code.intersection(body))) > MAX_FUNCTION_LINES:
            yield f"{node.name}: {count} lines of code"


def tests_say_what_they_show(_: str, source: str) -> Iterator[str]:
    """Each test has a sentence that says what holds if it passes."""
    for node in _tests(source):
        if not ast.get_docstring(node):
            yield node.name


def tests_name_subject_and_outcome(_: str, source: str) -> Iterator[str]:
    """A name is ``test_<subject>_<outcome>``, and begins with no article and no question."""
    for node in _tests(source):
        words = node.name.split("_")
        if len(words) < 3 or words[1] in {"a", "an", "the", "what", "who", "whose"}:
            yield node.name


def tests_have_different_names(_: str, source: str) -> Iterator[str]:
    """No test replaces another one of the same module or class."""
    for scope in _walk(source):
        if isinstance(scope, ast.Module | ast.ClassDef):
            names = [node.name for node in scope.body if isinstance(node, ast.FunctionDef)]
            yield from (name for name in set(names) if names.count(name) > 1)


@cache
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def _walk(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_parse(source)))


def _third_party(source: str) -> Iterator[str]:
    for name in imports(source):
        if name.partition(".")[0] not in {PACKAGE, *sys.stdlib_module_names}:
            yield name


def _functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in _walk(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _tests(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in _functions(source) if node.name.startswith("test_"))


def _floor(module: str) -> int:
    name = f"{module}..".split(".")[2]
    return STORE_FLOORS.index(name) if name in STORE_FLOORS else _TOP


def _mode(call: ast.Call) -> str:
    """Return the mode of a call of ``open``; one that is computed counts as writing."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    match [*call.args[1:2], *given]:
        case []:
            return "r"
        case [ast.Constant(str() as mode)]:
            return mode
    return "w"


def _is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")
