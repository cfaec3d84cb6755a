# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the format: each breaks one thing that it promises."""

from typing import Any

from tests.planted import Patch, fault
from tests.skipped_checks import skip_each_check
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


skip_each_check(_EDITS, codec, "_of_canonical")
skip_each_check(_EDITS, codec, "_canonical_capabilities")
