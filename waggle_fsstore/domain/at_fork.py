# SPDX-License-Identifier: Apache-2.0
"""After a fork: what the child must forget, because it is the parent's."""

import os
import weakref
from typing import Final, Protocol


class Forgetful(Protocol):
    """Holds a lock that another thread of the parent may hold at the moment of the fork."""

    def forget_after_fork(self) -> None:
        """Called in the child, which has one thread."""
        ...


_living: Final["weakref.WeakSet[Forgetful]"] = weakref.WeakSet()


def after_fork(holder: Forgetful) -> None:
    """Have ``forget_after_fork`` called in every child, for as long as the holder lives."""
    _living.add(holder)


def _forget() -> None:
    for holder in list(_living):
        holder.forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
