# SPDX-License-Identifier: Apache-2.0
"""Threads of their own for calls that may wait for long, so that others need not wait for them."""

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_threads_of(limiter: CapacityLimiter, call: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """The same call, made in the threads of a limiter. The SDK would take one of its forty."""

    @wraps(call)
    async def made(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await to_thread.run_sync(partial(call, *args, **kwargs), limiter=limiter)

    return made
