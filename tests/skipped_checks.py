# SPDX-License-Identifier: Apache-2.0
"""Planted faults made from the source of a function: each leaves out one of its checks."""

import ast
import inspect
from importlib import import_module
from textwrap import dedent
from types import ModuleType

from tests.planted import Patch, fault


def skip_each_check(test: str, owner: ModuleType | type, function: str) -> None:
    """Register a fault for each part of a condition in a function of a module or class."""
    counter = _WithoutCheck(-1)
    counter.visit(_parsed(owner, function))
    for number in range(-1 - counter.number):
        fault(test)(_SkipCheck(owner, function, number))


class _WithoutCheck(ast.NodeTransformer):
    """Leaves out one part of the conditions of a function, by its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        first, self.number = self.number, self.number - len(node.values)
        node.values = [value for place, value in enumerate(node.values) if place != first]
        return node if len(node.values) > 1 else node.values[0]


class _SkipCheck:
    """A fault: a function decides without one of its checks. Pickled by the names of the owner."""

    def __init__(self, owner: ModuleType | type, function: str, number: int) -> None:
        self.__name__ = f"skip_check_{number}{function}"
        self._module = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
        self._class = "" if isinstance(owner, ModuleType) else owner.__name__
        self._function = function
        self._number = number

    def __call__(self, patch: Patch) -> None:
        module = import_module(self._module)
        owner = getattr(module, self._class) if self._class else module
        tree = _WithoutCheck(self._number).visit(_parsed(owner, self._function))
        scope = vars(module).copy()
        exec(compile(tree, str(module.__file__), "exec"), scope)  # noqa: S102  # our own source
        patch.setattr(owner, self._function, scope[self._function])


def _parsed(owner: ModuleType | type, function: str) -> ast.Module:
    return ast.parse(dedent(inspect.getsource(getattr(owner, function))))
