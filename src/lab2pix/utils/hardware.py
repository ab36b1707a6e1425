"""Instructions of the processor, and memory of the machine."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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


def available_memory(device: torch.device) -> int:
    """Return the free memory of a GPU, or the memory that this process may have on the CPU, in bytes."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [sys.maxsize]
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if file.exists() and (text := file.read_text(encoding="ascii").strip()).isdecimal():
            limits.append(int(text))
    return min(limits)


def free_memory(device: torch.device) -> int:
    """Return the memory that a process can still take, in bytes: of a GPU, or of the machine and the control group."""
    available = available_memory(device)
    meminfo = Path("/proc/meminfo")
    if device.type == "cuda" or not meminfo.exists():
        return available
    found = re.search(r"^MemAvailable:\s*(\d+)", meminfo.read_text(encoding="utf-8"), re.MULTILINE)
    free = available if found is None else int(found[1]) * 1024
    for group in (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")):
        if group.exists():  # without files that the kernel can drop from memory
            cached = re.search(
                r"^(?:total_)?inactive_file (\d+)", group.with_name("memory.stat").read_text(), re.MULTILINE
            )
            used = int(group.read_text(encoding="ascii")) - (0 if cached is None else int(cached[1]))
            free = min(free, max(0, available - used))
    return free


def peak_resident() -> int:
    """Return the peak resident memory of this process, in bytes.

    Linux reports it in /proc; getrusage starts from the memory of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+)", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
