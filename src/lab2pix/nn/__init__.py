"""Networks: tensors and plain keyword arguments in, tensors out; nothing here knows files, devices or settings."""

from __future__ import annotations

__all__: list[str] = []
