"""Instructions of the processor."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["computes_bfloat16"]

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}
"""Flags of x86 processors, and of Arm's, that multiply in bfloat16."""


def computes_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether the processor has instructions for bfloat16; true if that is unknown.

    Without them, PyTorch emulates bfloat16, which takes some ten times as long as float32.

    Args:
        cpuinfo: description of the processors, as of Linux.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is None or not _FLAGS.isdisjoint(flags[1].split())
