"""Early termination of training: signals, time limit, and error messages for exhausted memory or disk space."""

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
from lab2pix.utils.hardware import computes_bfloat16

TIMEOUT = 1
"""Pseudo signal number for an elapsed `train.max_minutes`."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REPEAT_SECONDS = 1.0  # seconds; torchrun forwards a Ctrl-C that its processes have already received
_WORKER_GRACE_SECONDS = 30  # seconds that a data worker survives SIGTERM; torchrun waits as long


class InterruptHandler:
    """Context manager that records Ctrl-C, SIGTERM and the time limit.

    After the first signal, the current step and a checkpoint are finished; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        max_minutes: time limit of this session; None: no limit.
    """

    def __init__(self, max_minutes: float | None) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal = 0
        self._since = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> int:
        """Signal number, `TIMEOUT`, or 0 to continue."""
        if self._signal:
            return self._signal
        return TIMEOUT if self._deadline is not None and time.monotonic() >= self._deadline else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _REPEAT_SECONDS:
            raise KeyboardInterrupt

    def __enter__(self) -> InterruptHandler:
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def worker_ignore_signals(worker: int) -> None:
    """Ignore SIGINT in a data worker, and delay SIGTERM.

    Both may reach the whole process group, but the main process needs its workers until the last step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Exit later instead of never: a worker that hangs must not block the main process.
    signal.signal(signal.SIGTERM, _exit_after_grace)


def _exit_after_grace(number: int, frame: FrameType | None) -> None:
    signal.alarm(_WORKER_GRACE_SECONDS)


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
    advice += [f"set {key}=true" for key, value in settings.items() if "checkpointing" in key and value is False]
    if train.precision == "fp32" and (torch.cuda.is_available() or computes_bfloat16()):
        advice.append("set train.precision=bf16")
    width = next((f" or {key} (now {value})" for key, value in settings.items() if key.endswith(".width")), "")
    advice.append(f"lower data.size (now {list(config.data.size)}){width}")
    return "; ".join(advice)


@contextmanager
def translate_errors(config: RunConfig, processes: int = 1) -> Iterator[None]:
    """Translate system and torch.compile errors into messages with advice.

    Raises:
        TrainingError: out of memory, full disk, or failed compilation.
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
