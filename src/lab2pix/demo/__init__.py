"""The demonstration: a network learns to draw landscapes on this machine, and a page shows what came of it."""

from __future__ import annotations

from lab2pix.demo.runner import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
