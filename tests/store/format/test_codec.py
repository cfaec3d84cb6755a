# SPDX-License-Identifier: Apache-2.0
"""Environments survive the round trip through documents."""

import copy
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle_fsstore import (
    CorruptDocumentError,
    Environment,
    InvalidEnvironmentError,
    Runtime,
    Status,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.environment import DOCUMENT_KEYS, MAX_TIMEOUT, Owner
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.fs.safe_read import modified_at
from waggle_fsstore.store.write import initialize
from waggle_fsstore.testing import make_environment

PATH = "environments/a.json"
MODIFIED = 1_700_000_000.25

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones())
ENVIRONMENTS = st.builds(
    make_environment,
    name=TEXTS,
    runtime=st.sampled_from(Runtime),
    status=st.sampled_from(Status),
    ssh_port=st.integers(0, 65535),
    created_at=TIMES,
    last_used=TIMES,
    timeout=st.timedeltas(-MAX_TIMEOUT, MAX_TIMEOUT),
    labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
    provider=st.none() | TEXTS,
    status_reason=TEXTS,
    capabilities=st.none() | st.just(make_environment().capabilities),
    owner=st.none() | st.just(make_environment().owner),
    idempotency=st.none() | st.just(make_environment().idempotency),
    extra=st.dictionaries(
        TEXTS.filter(lambda key: key not in {*DOCUMENT_KEYS, "extra", "timeout"}), JSON, max_size=3
    ),
)


def decode(data: bytes | str) -> Environment:
    return codec.decode(data.encode() if isinstance(data, str) else data, PATH)


def document(**changes: Any) -> str:
    """Return a handwritten document with these keys changed; ``...`` removes a key."""
    values: dict[str, Any] = {
        "id": "a",
        "name": "n",
        "runtime": "python",
        "created_at": "2026-01-01T00:00:00Z",
    }
    values.update(changes)
    return json.dumps({key: value for key, value in values.items() if value is not ...})


@given(ENVIRONMENTS, st.integers(0, 2**53 - 1))
def test_environment_survives_round_trip(environment: Environment, revision: int) -> None:
    """Every valid environment is decoded equal, with its revision, from canonical bytes."""
    data = codec.encode(environment, revision)
    found = decode(data)
    assert found == environment
    assert found.revision == revision
    assert codec.is_intact(data)
    assert codec.encode(found, revision) == data
    assert codec.revision_of(data) == revision


#: Values that a manual edit may put in the place of any other, at the edge of what is valid.
EDITS: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**53, 65_536, 4_000_000_000, 1e12, 1.5, "", "python", "ruby", "error"),
    *("2026-01-02T03:04:05", "2026-01-02T03:04:05+01:00", "0001-01-01T00:00:00+01:00"),
    *("a\0b", "x" * 201, [], {}, {"a": 1}, {"a": "b"}),
)


def fast_way(document: dict[str, Any]) -> Environment | None:
    before = copy.deepcopy(document)
    found = None
    with suppress(*codec._OTHER_FORM):
        if tuple(document) in codec._CANONICAL_KEYS:
            found = codec._of_canonical(document)
    assert found is not None or document == before
    return found


def general_way(document: dict[str, Any]) -> Environment | None:
    return codec._of_any(document, PATH, None)


def outcome_of(
    decode_one: Callable[[dict[str, Any]], Environment | None], written: dict[str, Any]
) -> Any:
    """Return the environment in a document, or else the text of the error."""
    try:
        return decode_one(codec.parse_object(canonical(written), PATH))
    except (CorruptDocumentError, UnsupportedFormatError) as error:
        return str(error)


def check_both_ways(written: dict[str, Any]) -> None:
    fast, general = outcome_of(fast_way, written), outcome_of(general_way, written)
    assert fast in (None, general)
    if fast is not None:
        assert codec.encode(fast, fast.revision) == codec.encode(general, general.revision)
        assert fast.revision == general.revision


@pytest.mark.parametrize(
    "absent",
    [{}, {"idempotency": None, "owner": None}, {"discard_files": False}, {"host_id": None}],
)
def test_written_document_is_decoded_the_fast_way(absent: dict[str, Any]) -> None:
    """Each document without unknown members is, with any of the optional members or without."""
    environment = make_environment(extra={}, **absent)
    found = fast_way(codec.parse_object(codec.encode(environment, 7), PATH))
    assert found == environment
    assert found is not None
    assert found.copy() == found


def test_each_edit_has_same_effect_on_both_ways_to_decode() -> None:
    """The fast way for documents that a store wrote accepts, refuses and returns the same."""
    data = codec.encode(make_environment(extra={}), 7)
    for edit in EDITS:
        for name, value in json.loads(data).items():
            check_both_ways({**json.loads(data), name: edit})
            for key in value if isinstance(value, dict) else ():
                check_both_ways({**json.loads(data), name: {**value, key: edit}})


@given(ENVIRONMENTS, st.integers(0, 2**53 - 1), st.data())
def test_renamed_member_has_same_effect_on_both_ways_to_decode(
    environment: Environment, revision: int, data: st.DataObject
) -> None:
    """A document with other members than a store writes is left to the general way."""
    written = json.loads(codec.encode(environment, revision))
    objects = [one for one in (written, *written.values()) if isinstance(one, dict) and one]
    check_both_ways(written)
    edited = data.draw(st.sampled_from(objects))
    key = data.draw(st.sampled_from(sorted(edited)))
    edited[data.draw(TEXTS)] = edited.pop(key)
    check_both_ways(written)


class FrozenTime(datetime):
    """A time as a library that freezes the clock puts it in the place of others."""


def test_time_of_subclass_is_written_alike() -> None:
    """A subclass of datetime is written as any other time, with and without microseconds."""
    for microsecond in (0, 5):
        at = datetime(2026, 1, 2, 3, 4, 5, microsecond, tzinfo=UTC)
        frozen = FrozenTime(2026, 1, 2, 3, 4, 5, microsecond, tzinfo=UTC)
        plain = make_environment(created_at=at, last_used=at)
        assert plain.capabilities is not None
        plain.capabilities = replace(plain.capabilities, detected_at=at)
        other = plain.copy()
        other.created_at = other.last_used = frozen
        other.capabilities = replace(plain.capabilities, detected_at=frozen)
        assert codec.encode(other, 7) == codec.encode(plain, 7)


def test_document_bytes_are_the_format() -> None:
    """A document has exactly these bytes on disk."""
    environment = make_environment(id="env-x", name="data-analysis")
    environment.created_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    environment.last_used = datetime(2026, 1, 2, 4, 4, 5, 6, tzinfo=timezone(timedelta(hours=1)))
    environment.ssh_port = 10_022
    environment.timeout = timedelta(minutes=30)
    environment.capabilities = environment.idempotency = environment.host_id = None
    environment.owner = Owner(host="maja", boot_id="boot-5", pid=4242, process_started=987_654)
    assert (
        codec.encode(environment.copy(), 7).decode()
        == """\
{
  "capabilities": null,
  "checksum": "10882b53",
  "colour": [
    "amber",
    {
      "depth": 2.5
    }
  ],
  "count": 3,
  "created_at": "2026-01-02T03:04:05.000000Z",
  "discard_files": true,
  "id": "env-x",
  "labels": {
    "team": "red",
    "tier": "gold"
  },
  "last_used": "2026-01-02T03:04:05.000006Z",
  "name": "data-analysis",
  "owner": {
    "boot_id": "boot-5",
    "host": "maja",
    "pid": 4242,
    "process_started": 987654
  },
  "provider": "local",
  "revision": 7,
  "runtime": "node",
  "schema": 1,
  "ssh_port": 10022,
  "status": "running",
  "status_reason": "started manually",
  "timeout_seconds": 1800
}
"""
    )


def test_later_members_are_members_of_the_document() -> None:
    """Members of later versions are in no nested object, whose unknown members are refused."""
    document = json.loads(codec.encode(make_environment(), 1))
    assert document["owner"].keys() == {"boot_id", "host", "pid", "process_started"}
    assert document["owner_pid_namespace"] == 4_026
    assert document["idempotency"].keys() == {"arguments", "key"}


def test_namespace_without_owner_is_dropped() -> None:
    """The namespace that an older version left behind does not outlive the next change."""
    found = decode(document(owner=None, owner_pid_namespace=7))
    assert found.owner is None
    assert "owner_pid_namespace" not in json.loads(codec.encode(found, 1))


def test_document_keys_match_codec() -> None:
    """The domain knows which keys ``extra`` may not have."""
    assert set(json.loads(codec.encode(make_environment(extra={}), 1))) == DOCUMENT_KEYS


def test_minimal_document_gets_defaults(tmp_path: Path) -> None:
    """Id, name and runtime are enough; the times default to that of the file."""
    path = tmp_path / "a.json"
    path.touch()
    os.utime(path, (MODIFIED, MODIFIED))
    found = codec.decode(document(created_at=...).encode(), str(path), modified_at)
    modified = datetime.fromtimestamp(MODIFIED, UTC)
    assert found == Environment(
        id="a", name="n", runtime=Runtime.PYTHON, created_at=modified, last_used=modified
    )
    assert found.revision == 0


def test_last_used_defaults_to_created_at() -> None:
    """A document with only ``created_at`` does not expire by surprise."""
    assert decode(document(created_at="2026-05-06T07:08:09Z")).last_used == datetime(
        2026, 5, 6, 7, 8, 9, tzinfo=UTC
    )


def test_times_of_other_zones_become_utc() -> None:
    """A manual edit may have any UTC offset; the time is kept in UTC."""
    assert decode(document(created_at="2026-05-06T07:08:09.5+02:00")).created_at == datetime(
        2026, 5, 6, 5, 8, 9, 500_000, tzinfo=UTC
    )


def test_unknown_keys_are_kept() -> None:
    """A key that a newer program added survives an older one."""
    found = decode(document(colour={"deep": [1, None]}))
    assert found.extra == {"colour": {"deep": [1, None]}}
    assert json.loads(codec.encode(found, 1))["colour"] == {"deep": [1, None]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("\0" * 512, "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (document().encode().replace(b'"n"', b'"\xe9"'), "not valid JSON"),
        (document(id=...), "id: is missing"),
        (document(name=...), "name: is missing"),
        (document(runtime=...), "runtime: is missing"),
        (document(created_at=...), "created_at: is missing"),
        (document(runtime="cobol"), "runtime: 'cobol' is not one of python, node, shell"),
        (document(id=""), "id: is empty"),
        (document(id=5), "id: is not a string"),
        (document(name=None), "name: is not a string"),
        (document(status="asleep"), "status: 'asleep' is not one of"),
        (document(ssh_port=True), "ssh_port: is not an integer"),
        (document(ssh_port=65536), "ssh_port: is not between"),
        (document(ssh_port=1.0), "ssh_port: is not an integer"),
        (document(created_at="yesterday"), "created_at: 'yesterday' is not an RFC 3339 time"),
        (document(created_at="2026-01-01T00:00:00"), "created_at: has no time zone"),
        (document(created_at="0001-01-01T00:00:00+09:00"), "created_at: is out of range"),
        (document(last_used=5), "last_used: 5 is not"),
        (document(timeout_seconds="30m"), "timeout_seconds: '30m' is not a number"),
        (document(timeout_seconds=True), "timeout_seconds: True is not a number"),
        (document(timeout_seconds=1e300), "timeout_seconds: 1e+300 is not a number"),
        (document(timeout_seconds=1e12), "timeout_seconds: is more than a century"),
        (document(labels={"n": 1}), "labels: is not a string"),
        (document(labels=["n"]), "labels: is not a dict"),
        (document(capabilities=[]), "capabilities: is not an object"),
        (document(capabilities={}), "capabilities.detected_at: None is not"),
        (
            document(capabilities={"detected_at": "2026-01-01T00:00:00Z", "has_brew": True}),
            "capabilities: 'has_brew' is no known key",
        ),
        (document(owner={"pid": 1}), "owner.host: is missing"),
        (document(owner={"pid": 1, "shoe": 2}), "owner: 'shoe' is no known key"),
        (
            document(
                owner={"host": "h", "boot_id": "", "pid": 1, "process_started": 0},
                owner_pid_namespace="x",
            ),
            "owner.pid_namespace: is not an integer",
        ),
        (document(idempotency="k"), "idempotency: is not an object"),
        (document(idempotency={"key": "k"}), "idempotency.arguments: is missing"),
        (document(idempotency={"key": " ", "arguments": ""}), "idempotency.key: must not be"),
        (document(revision=-1), "revision: is not between"),
        (document(revision=2**53), "revision: is not between"),
        (document(revision=1.5), "revision: is not an integer"),
        (document(schema=0), "schema: 0 is not a positive integer"),
        (document(schema="1"), "schema: '1' is not a positive integer"),
        (document(extra={}), "extra: 'extra' is the name of a field"),
        (document(timeout=5), "extra: 'timeout' is the name of a field"),
        (document(deep=json.loads("[" * 150 + "]" * 150)), "extra: is nested deeper"),
    ],
)
def test_corrupt_document_names_path_and_field(data: bytes | str, reason: str) -> None:
    """The error of a corrupt document names the file, and the field that is wrong."""
    with pytest.raises(CorruptDocumentError) as caught:
        decode(data)
    assert caught.value.reason.startswith(reason)
    assert caught.value.path == Path(PATH)


def test_newer_schema_is_refused() -> None:
    """A newer schema is refused whatever else the document holds."""
    with pytest.raises(UnsupportedFormatError) as caught:
        decode('{"schema": 2, "id": {"new": "shape"}}')
    assert (caught.value.found, caught.value.supported) == (2, 1)


@given(st.binary(max_size=200) | TEXTS.map(str.encode) | JSON.map(lambda j: json.dumps(j).encode()))
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    """Any bytes are an environment or a clear error."""
    with suppress(CorruptDocumentError, UnsupportedFormatError):
        codec.decode(data, __file__, modified_at)  # Any existing file, for its time.


@given(st.data())
def test_checksum_detects_manual_edit(data: st.DataObject) -> None:
    """A changed value breaks the checksum; white space and the order of keys do not."""
    document = json.loads(codec.encode(make_environment(id="a"), 7))
    key = data.draw(st.sampled_from(sorted(document)))
    reordered = json.dumps(dict(reversed(document.items())), indent=7).encode()
    assert codec.is_intact(reordered)
    assert not codec.is_intact(json.dumps({**document, key: "edited"}).encode())
    del document[key]
    assert not codec.is_intact(json.dumps(document).encode())


def test_oversized_document_names_field() -> None:
    """A document of more than 1 MiB is refused, with the name of its largest field."""
    for field, value in [
        ("name", "n" * codec.MAX_DOCUMENT_BYTES),
        ("labels", {"l": "x" * codec.MAX_DOCUMENT_BYTES}),
        ("extra", {"e": "x" * codec.MAX_DOCUMENT_BYTES}),
    ]:
        with pytest.raises(InvalidEnvironmentError, match="1048576 is the limit") as caught:
            codec.encode(make_environment(**{field: value}), 1)
        assert caught.value.field == field


def test_array_holds_documents() -> None:
    """Several documents make one JSON array, each as in its own file."""
    environments = [make_environment(revision=3), make_environment(revision=4)]
    assert json.loads(codec.encode_array(environments)) == [
        json.loads(codec.encode(environment, environment.revision)) for environment in environments
    ]


@pytest.mark.parametrize(
    ("data", "revision"),
    [
        (b'{"revision": 9, "schema": 99}', 9),
        (b'{"revision": "9"}', 0),
        (b'{"revision": true}', 0),
        (b'{"revision": 9007199254740992}', 0),
        (b"[]", 0),
        (b"{", 0),
        (b"{}", 0),
    ],
)
def test_revision_is_read_from_invalid_documents(data: bytes, revision: int) -> None:
    """The revision counter can be rebuilt from files that this version cannot decode."""
    assert codec.revision_of(data) == revision


def test_marker_bytes_are_the_format() -> None:
    """The marker is one line of JSON that names the application and its format."""
    data = initialize.MARKER
    assert data == b'{"application": "waggle-fsstore", "format": 1}\n'
    assert initialize._version_in(data, "waggle.json") == 1


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"application": "other", "format": 1}', UnsupportedFormatError),
        (b'{"format": 1}', UnsupportedFormatError),
        (b'{"application": "waggle-fsstore"}', CorruptDocumentError),
        (b'{"application": "waggle-fsstore", "format": "1"}', CorruptDocumentError),
        (b"", CorruptDocumentError),
    ],
)
def test_bad_marker_is_refused(data: bytes, error: type[Exception]) -> None:
    """A directory with the marker of another application, or a broken one, is refused."""
    with pytest.raises(error):
        initialize._version_in(data, "waggle.json")
