# SPDX-License-Identifier: Apache-2.0
"""What a store takes for its boot and its place: to it, a replayed state is no copy."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import pytest

from waggle_fsstore.domain.process import boot_id
from waggle_fsstore.store.journal import state

_STORE: Final = "waggle_fsstore.store."


class World(NamedTuple):
    """The place that a store is in, and how often the system was started."""

    place: str = "1-2-3"
    boot: int = 1

    def rebooted(self) -> "World":
        """After a power cut."""
        return self._replace(boot=self.boot + 1)

    def copied(self) -> "World":
        """Where a copy of the store is."""
        return self._replace(place=f"{self.place}-copy")


@contextmanager
def inside(world: World) -> Iterator[None]:
    """Have the store believe that it is in this world."""
    real = state.store_id

    def place(*given: Any) -> str:
        real(*given)  # Raises where there is no store.
        return world.place

    fakes = ((real, place), (boot_id, lambda: f"boot-{world.boot}"))
    # Each module that imported one of them has a name of its own for it.
    modules = [sys.modules[name] for name in sys.modules if name.startswith(_STORE)]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for old, new in fakes:
                if getattr(module, old.__name__, None) is old:
                    patch.setattr(module, old.__name__, new)
        assert state.store_id is place
        yield
