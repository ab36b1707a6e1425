"""Contract checks for implementations of `lab2pix.methods.Method`."""

from __future__ import annotations

from lab2pix.testing.contract import check_method, check_processes

__all__ = ["check_method", "check_processes"]
