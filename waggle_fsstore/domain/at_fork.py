# SPDX-License-Identifier: Apache-2.0
"""State that belongs to the parent process and must be reset in a forked child."""

import os
import weakref
from typing import Final, Protocol


class ForkAware(Protocol):
    """An object with state of its process, such as a lock that another thread may hold."""

    def reset_after_fork(self) -> None:
        """Reset that state. Called in the child, which has one thread."""
        ...


_registered: Final["weakref.WeakSet[ForkAware]"] = weakref.WeakSet()


def register_at_fork(holder: ForkAware) -> None:
    """Have ``reset_after_fork`` called in every child, as long as the object lives."""
    _registered.add(holder)


def _reset_all() -> None:
    for holder in list(_registered):
        holder.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
