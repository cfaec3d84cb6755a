# SPDX-License-Identifier: Apache-2.0
"""After a fork: what the child must forget, because it is the parent's."""

import os
import weakref
from typing import Final, Protocol


class ForkAware(Protocol):
    """Holds a lock that another thread of the parent may hold at the moment of the fork."""

    def reset_after_fork(self) -> None:
        """Called in the child, which has one thread."""
        ...


_living: Final["weakref.WeakSet[ForkAware]"] = weakref.WeakSet()


def register_at_fork(holder: ForkAware) -> None:
    """Have ``reset_after_fork`` called in every child, for as long as the holder lives."""
    _living.add(holder)


def _forget() -> None:
    for holder in list(_living):
        holder.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
