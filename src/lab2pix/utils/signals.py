"""What Ctrl-C and SIGTERM do while the command line is loaded and a server gets ready."""

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
    """Let a function handle Ctrl-C and SIGTERM meanwhile; Python lets no other thread than the main one do this."""
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
    """Meanwhile let Ctrl-C and SIGTERM end the process with a word, and with what a shell expects: 130 or 143.

    For times in which nothing is begun that has to be ended. An exception will not do: it may come in the midst of an
    import, and what is imported swallows it, or prints it.
    """
    return on_signals(_quit)


def exit_immediately() -> NoReturn:
    """End the process, all being done, without taking it apart.

    After PyTorch has been loaded that takes Python a second, and it aborts where a thread still computes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(1, b"Stopped\n")  # not print, which may be what was interrupted
    os._exit(128 + number)
