"""Interoperability: conversion of checkpoints of other programs, and vector files of recorded outputs."""

from __future__ import annotations

__all__: list[str] = []
