"""Checks that a method keeps the contract of `lab2pix.methods.base`, for the tests of whoever writes one."""

from __future__ import annotations

from lab2pix.testing.contract import check_method, check_processes

__all__ = ["check_method", "check_processes"]
