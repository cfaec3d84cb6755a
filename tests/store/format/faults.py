# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the format: each breaks one thing that it promises."""

import ast
import inspect
from typing import Any

from tests.planted import Patch, fault
from waggle_fsstore.domain import environment
from waggle_fsstore.store.format import canonical_json, codec, layout


@fault("tests/store/test_contracts.py::TestFileStore::test_saved_environment_is_found")
def swap_created_at_and_last_used(patch: Patch) -> None:
    real = codec._document

    def swapped(*arguments: Any) -> dict[str, Any]:
        document = real(*arguments)
        document["created_at"], document["last_used"] = (
            document["last_used"],
            document["created_at"],
        )
        return document

    patch.setattr(codec, "_document", swapped)


@fault("tests/store/format/test_codec.py::test_unknown_keys_are_kept")
def drop_unknown_keys(patch: Patch) -> None:
    real = environment.Environment
    patch.setattr(codec, "Environment", lambda **values: real(**{**values, "extra": {}}))


@fault("tests/store/test_file_store.py::test_newer_document_is_left_alone")
def accept_newer_schema(patch: Patch) -> None:
    patch.setattr(codec, "SCHEMA", 99)


@fault("tests/store/test_file_store.py::test_manual_edit_is_a_conflict")
def ignore_checksum_of_documents(patch: Patch) -> None:
    patch.setattr(codec, "is_intact", lambda _: True)


@fault("tests/store/test_file_store.py::test_no_id_leads_outside_the_root")
def use_id_as_path(patch: Patch) -> None:
    patch.setattr(layout, "document_name", lambda environment_id: f"{environment_id}.json")


@fault("tests/store/format/test_layout.py::test_ids_never_share_a_file_name")
def leave_upper_case_unescaped(patch: Patch) -> None:
    real = layout.document_name
    patch.setattr(
        layout, "document_name", lambda name: f"{name}.json" if name.isalnum() else real(name)
    )
    patch.setattr(
        "tests.store.format.test_layout.document_name", layout.document_name, raising=False
    )


_EDITS = "tests/store/format/test_codec.py::test_each_edit_has_same_effect_on_both_ways_to_decode"


@fault(_EDITS)
def decode_unknown_runtime_fast(patch: Patch) -> None:
    patch.setitem(codec._RUNTIMES, "ruby", environment.Runtime.PYTHON)


@fault(
    "tests/store/format/test_codec.py::test_renamed_member_has_same_effect_on_both_ways_to_decode"
)
def decode_any_members_fast(patch: Patch) -> None:
    class AnyKeys:
        def __contains__(self, _: object) -> bool:
            return True

    patch.setattr(codec, "_CANONICAL_KEYS", AnyKeys())


@fault("tests/store/format/test_codec.py::test_written_document_is_decoded_the_fast_way")
def decode_later_members_the_general_way(patch: Patch) -> None:
    shortest = min(codec._CANONICAL_KEYS, key=len)
    patch.setattr(codec, "_CANONICAL_KEYS", frozenset([shortest]))


@fault("tests/store/format/test_codec.py::test_time_of_subclass_is_written_alike")
def refuse_times_of_subclasses(patch: Patch) -> None:
    patch.setattr(canonical_json, "_of_subclass", None)


class _WithoutCheck(ast.NodeTransformer):
    """Leaves out one part of the conditions of a function, by its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        first, self.number = self.number, self.number - len(node.values)
        node.values = [value for place, value in enumerate(node.values) if place != first]
        return node if len(node.values) > 1 else node.values[0]


class _SkipCheck:
    """A fault: a function of the codec decodes without one of its checks."""

    def __init__(self, function: str, number: int) -> None:
        self.__name__ = f"skip_check_{number}{function}"
        self._function = function
        self._number = number

    def __call__(self, patch: Patch) -> None:
        tree = _WithoutCheck(self._number).visit(_parsed(self._function))
        scope = vars(codec).copy()
        exec(compile(tree, codec.__file__, "exec"), scope)  # noqa: S102  # our own source
        patch.setattr(codec, self._function, scope[self._function])


def _parsed(function: str) -> ast.Module:
    return ast.parse(inspect.getsource(getattr(codec, function)))


for _function in ("_of_canonical", "_canonical_capabilities"):
    _counter = _WithoutCheck(-1)
    _counter.visit(_parsed(_function))
    for _number in range(-1 - _counter.number):
        fault(_EDITS)(_SkipCheck(_function, _number))
