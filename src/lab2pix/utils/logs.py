"""The logger `lab2pix`: its level for the command line, and whether progress is shown."""

from __future__ import annotations

import logging
import sys

LOGGER = logging.getLogger("lab2pix")
"""Parent of the loggers of all modules, which are called by their names."""


def configure_logging(level: int) -> None:
    """Send messages of a level or above to standard error, as the command line does."""
    for handler in [one for one in LOGGER.handlers if isinstance(one, logging.StreamHandler)]:
        LOGGER.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False


def shows_progress() -> bool:
    """Return whether progress bars and notes are shown: unless the logger's level is above `WARNING`."""
    return LOGGER.getEffectiveLevel() <= logging.WARNING
