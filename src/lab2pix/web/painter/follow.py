"""Follows a run in training: the painter takes each new checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

from lab2pix.errors import Lab2PixError
from lab2pix.inference import Synthesizer
from lab2pix.inference.modes import Mode
from lab2pix.training import latest_checkpoint
from lab2pix.web.painter.service import PainterService
from lab2pix.web.responses import HTTPError

POLL_SECONDS = 2.0


@contextmanager
def followed(service: PainterService, run: Path, device: str | None) -> Iterator[None]:
    """Let the service take each new checkpoint of a run, within the context.

    A checkpoint is loaded in a thread of its own and taken between two requests, so a request never waits for it.
    """
    ended = threading.Event()

    def follow() -> None:
        served = f"step-{service.synthesizer.step:08d}"
        while not ended.wait(POLL_SECONDS):
            newest = latest_checkpoint(run)
            if newest is None or newest.name == served:
                continue
            try:
                synthesizer = Synthesizer.load(newest, device=device)
                synthesizer.optimize(cast(Mode, service.synthesizer.mode))
                service.queue.submit(partial(setattr, service, "synthesizer", synthesizer)).result()
                served = newest.name
            except (Lab2PixError, OSError, HTTPError):  # deleted meanwhile for a newer one, or a full queue
                continue

    thread = threading.Thread(target=follow, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
