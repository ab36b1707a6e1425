"""Instructions of the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab2pix.utils.hardware import computes_bfloat16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 fma\n", False),
        ("flags\t\t: avx512f avx512_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("model name: unknown\n", True),
    ],
)
def test_bfloat16_is_read_from_the_flags(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert computes_bfloat16(tmp_path / "cpuinfo") is expected


def test_unknown_processor_is_not_warned_about(tmp_path: Path) -> None:
    assert computes_bfloat16(tmp_path / "missing")
