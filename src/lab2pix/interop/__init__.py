"""What connects the project with others' work: the authors' released networks, and the Hugging Face hub."""

from __future__ import annotations

__all__: list[str] = []
