# SPDX-License-Identifier: Apache-2.0
"""The store id and boot id shown to a store, so that a replayed state is no copy to it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import pytest

from waggle_fsstore.domain.process import boot_id
from waggle_fsstore.store.journal import state

_STORE: Final = "waggle_fsstore.store."


class Identity(NamedTuple):
    """Where a store is, as its store id, and how often the system was booted."""

    store_id: str = "1-2-3"
    boot: int = 1

    def rebooted(self) -> "Identity":
        """Return the identity after a power cut."""
        return self._replace(boot=self.boot + 1)

    def copied(self) -> "Identity":
        """Return the identity of a copy of the store."""
        return self._replace(store_id=f"{self.store_id}-copy")


@contextmanager
def assumed(identity: Identity) -> Iterator[None]:
    """Show this identity to every store that is used in the block."""
    real = state.store_id

    def store_id_of(*given: Any) -> str:
        real(*given)  # Raises where there is no store.
        return identity.store_id

    fakes = ((real, store_id_of), (boot_id, lambda: f"boot-{identity.boot}"))
    # Each module that imported one of them has a name of its own for it.
    modules = [sys.modules[name] for name in sys.modules if name.startswith(_STORE)]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for old, new in fakes:
                if getattr(module, old.__name__, None) is old:
                    patch.setattr(module, old.__name__, new)
        assert state.store_id is store_id_of
        yield
