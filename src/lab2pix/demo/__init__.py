"""Demonstration: trains a network on drawn landscapes within minutes, and shows its images on a page."""

from __future__ import annotations

from lab2pix.demo.runner import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
