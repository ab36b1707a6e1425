"""Reasons to end a run before its last step, and what to say when memory or disk end it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lab2pix.config.schema import RunConfig
from lab2pix.errors import TrainingError
from lab2pix.training.checkpoint import is_disk_full
from lab2pix.training.run_folder import flatten

__all__ = ["TIMEOUT", "InterruptHandler", "translate_errors", "worker_ignore_signals"]

TIMEOUT = 1
"""A stop request that is no signal: `train.max_minutes` have passed."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_AFTER = 1.0  # seconds; torchrun repeats a Ctrl-C that its processes have seen already
_WORKER_OUTLIVES = 30  # seconds that a data worker goes on after SIGTERM; as long as torchrun waits


class InterruptHandler:
    """Listens for Ctrl-C, SIGTERM and the end of the allotted time, while it is entered.

    The first signal lets the step at hand and a checkpoint finish; another Ctrl-C quits at once.

    Args:
        max_minutes: how long this session may take; None: no limit.
    """

    def __init__(self, max_minutes: float | None) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal = 0
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> int:
        """The signal's number, `TIMEOUT`, or 0 to go on."""
        if self._signal:
            return self._signal
        return TIMEOUT if self._deadline is not None and time.monotonic() >= self._deadline else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _AGAIN_AFTER:
            raise KeyboardInterrupt

    def __enter__(self) -> InterruptHandler:
        """Start to listen."""
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread do this
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def worker_ignore_signals(worker: int) -> None:
    """Leave it to the training to end its data workers: signals often go to the whole group of processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # By then the training has made its last step; a worker that hangs must not keep it from ending.
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(_WORKER_OUTLIVES)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(part in str(error).lower() for part in words)


def _memory_advice(config: RunConfig, processes: int) -> str:
    train, settings = config.train, dict(flatten(config.model_dump()))
    advice = []
    if train.batch_size // (processes * train.accumulate) > 1:
        advice.append(
            f"raise train.accumulate (now {train.accumulate}) or lower train.batch_size (now {train.batch_size})"
        )
    if settings.get("train.gradient_checkpointing") is False:
        advice.append("set train.gradient_checkpointing=true")
    if train.precision == "fp32":
        advice.append("set train.precision=bf16")
    width = f" or generator.width (now {settings['generator.width']})" if "generator.width" in settings else ""
    advice.append(f"lower data.size (now {list(config.data.size)}){width}")
    return "; ".join(advice)


@contextmanager
def translate_errors(config: RunConfig, processes: int = 1) -> Iterator[None]:
    """Turn the words of the system, and of torch's compiler, into what the user can do about it.

    Raises:
        TrainingError: memory ran out, the disk is full, or torch's compiler failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if _is_out_of_memory(error):
            raise TrainingError(f"out of memory; to need less, {_memory_advice(config, processes)}") from error
        if config.train.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = " ".join(str(error).strip().partition("\n\n")[0].split())
            raise TrainingError(f"torch's compiler failed ({reason}); set train.compile=false") from error
        if is_disk_full(error):
            name = getattr(error, "filename", None) or Path.cwd()
            raise TrainingError(
                f"the disk is full (while writing {name}); make room and go on with --resume"
            ) from error
        raise
