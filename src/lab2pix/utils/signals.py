"""Handling of SIGINT and SIGTERM while the command line starts and a server starts up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["exit_immediately", "exit_on_signal", "on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(handle: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM by a function within the context; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def exit_on_signal() -> AbstractContextManager[None]:
    """Exit on SIGINT and SIGTERM within the context, with status 130 or 143.

    For phases without anything to clean up. An exception would not do: a module that is being imported may catch it.
    """
    return on_signals(_quit)


def exit_immediately() -> NoReturn:
    """Exit without finalizing the interpreter.

    After PyTorch has been loaded that takes a second, and it aborts where a thread still computes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(1, b"Stopped\n")  # not print, which may have been interrupted
    os._exit(128 + number)
