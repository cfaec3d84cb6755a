# SPDX-License-Identifier: Apache-2.0
"""A state machine: a store and a MemoryStore answer the same to each sequence of calls."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from waggle_fsstore import (
    ConflictError,
    Environment,
    MemoryStore,
    Status,
    WaggleError,
)
from waggle_fsstore.testing import make_environment

IDS = st.sampled_from(["a", "A", "con", "X" * 200])
VERSIONS = st.builds(
    lambda environment_id, name, status, labels, extra: make_environment(
        id=environment_id, name=name, status=status, labels=labels, extra=extra
    ),
    environment_id=IDS,
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    status=st.sampled_from(Status),
    labels=st.dictionaries(st.sampled_from(["x", "y"]), st.just("1")),
    extra=st.dictionaries(st.sampled_from(["p", "q"]), st.lists(st.integers(0, 9))),
)
HANDLES = st.integers(0, 1)


class Answer:
    """What a call returned or raised, in a form that two stores can be compared by."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: WaggleError | ValueError | None = None
        self.value: Any = None
        try:
            self.value = call()
        except (WaggleError, ValueError) as error:
            self.error = error

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Answer)
        return (self.value, type(self.error), str(self.error)) == (
            other.value,
            type(other.error),
            str(other.error),
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Answer({self.value!r}, {self.error!r})"


class Stores(RuleBasedStateMachine):
    """Two handles on a store, either of which may be reopened, and a MemoryStore."""

    @initialize()
    def begin(self) -> None:
        self.make_place()
        self.model = MemoryStore()
        self.handles = [self.open(), self.open()]

    def teardown(self) -> None:
        for handle in getattr(self, "handles", []):
            handle.close()

    def make_place(self) -> None:
        """Make the place of a store, which does not exist yet."""
        raise NotImplementedError

    def open(self) -> Any:
        """Open the store."""
        raise NotImplementedError

    def read(self, environment_id: str) -> str | None:
        """Return the text of a stored document, if there is one."""
        raise NotImplementedError

    def write(self, environment_id: str, text: str) -> None:
        """Change the text of a document without the store."""
        raise NotImplementedError

    def both(self, handle: int, call: Callable[[Any], Any]) -> Any:
        """The answer to a call, which has to be the same from both."""
        expected = Answer(lambda: call(self.model))
        actual = Answer(lambda: call(self.handles[handle]))
        assert actual == expected
        return expected.value

    @rule(handle=HANDLES, version=VERSIONS)
    def save(self, handle: int, version: Environment) -> None:
        self.both(handle, lambda store: store.save(version))
        # The stores keep copies: this must change neither.
        version.labels["changed"] = "afterwards"
        version.extra.setdefault("p", []).append("afterwards")

    @rule(handle=HANDLES, version=VERSIONS, capacity=st.none() | st.integers(0, 3))
    def create(self, handle: int, version: Environment, capacity: int | None) -> None:
        self.both(handle, lambda store: store.create(version, capacity=capacity))

    @rule(
        handle=HANDLES,
        version=VERSIONS,
        guess=st.sampled_from(["absent", "right", "older", "newer"]),
    )
    def save_conditionally(self, handle: int, version: Environment, guess: str) -> None:
        stored = {found.id: found.revision for found in self.model.find_all()}
        right = stored.get(version.id, 0)
        guesses = {"absent": 0, "right": right, "older": max(0, right - 1), "newer": right + 1}
        self.both(handle, lambda store: store.save(version, if_revision=guesses[guess]))

    @rule(handle=HANDLES, batch=st.lists(VERSIONS, max_size=4))
    def save_all(self, handle: int, batch: list[Environment]) -> None:
        self.both(handle, lambda store: store.save_all(iter(batch)))

    @rule(handle=HANDLES, environment_id=IDS, port=st.integers(-1, 65_536))
    def update(self, handle: int, environment_id: str, port: int) -> None:
        self.both(
            handle,
            lambda store: store.update(
                environment_id, lambda copy: setattr(copy, "ssh_port", port)
            ),
        )

    @rule(handle=HANDLES, environment_id=IDS)
    def delete(self, handle: int, environment_id: str) -> None:
        self.both(handle, lambda store: store.delete(environment_id))

    @rule(handle=HANDLES, environment_id=IDS)
    def find(self, handle: int, environment_id: str) -> None:
        self.both(handle, lambda store: store.find_by_id(environment_id))

    @rule(handle=HANDLES)
    def reopen(self, handle: int) -> None:
        self.handles[handle].close()
        self.handles[handle] = self.open()

    @rule(handle=HANDLES, environment_id=IDS, name=st.sampled_from(["by hand", "by an editor"]))
    def edit_by_hand(self, handle: int, environment_id: str, name: str) -> None:
        """A change by hand is seen, is a conflict, and is kept by an update."""
        text = self.read(environment_id)
        if text is None:
            return
        document = json.loads(text)
        if document["name"] == name:
            return
        self.write(environment_id, json.dumps({**document, "name": name}))
        edited = self.model.find_by_id(environment_id)
        edited.name = name
        self.model.save(edited)  # It gets a revision of its own with the next write.
        refused = Answer(
            lambda: self.handles[handle].save(
                make_environment(id=environment_id), if_revision=document["revision"]
            )
        )
        assert isinstance(refused.error, ConflictError)
        self.both(
            handle, lambda store: store.update(environment_id, lambda copy: copy.labels.clear())
        )

    @invariant()
    def all_agree(self) -> None:
        if hasattr(self, "handles"):
            for handle in range(2):
                self.both(handle, lambda store: [(it, it.revision) for it in store.find_all()])
                self.both(handle, lambda store: store.count())
