"""SIGINT and SIGTERM handling during startup of the command line and of servers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(handle: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Install a handler for SIGINT and SIGTERM within the context; no effect outside the main thread."""
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

    For phases with nothing to clean up. An exception is not enough: a module being imported may catch it.
    """
    return on_signals(_quit)


def exit_immediately() -> NoReturn:
    """Exit without finalizing the interpreter.

    With PyTorch loaded, finalization takes a second and aborts the process if a thread is still computing.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(1, b"Stopped\n")  # print is not reentrant in a signal handler
    os._exit(128 + number)
