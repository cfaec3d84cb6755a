# SPDX-License-Identifier: Apache-2.0
"""Interrupts at each instruction of some modules, as Ctrl-C can come."""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupt(BaseException):
    """Stands for Ctrl-C."""


def interrupted(
    work: Callable[[], object],
    files: tuple[str, ...],
    number: int,
    error: type[BaseException] = Interrupt,
) -> bool:
    """Run ``work``, raising before an instruction of these files; return whether that came out.

    No garbage is collected meanwhile: what a finalizer raises does not come out.
    """
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == number:
                raise error
        return trace

    gc.disable()
    old = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 wants one before tracing begins.
    sys.settrace(trace)
    try:
        work()
    except error:
        return True
    finally:
        sys.settrace(old)
        gc.enable()
    return False
