"""Parity of TSIT: the authors' recordings of both tasks, and the strength of the style."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lab2pix.testing.parity import check_file

GROUPS = {
    *("out", "loss", "features", "grad_norm", "grad_norm_by_tensor", "second_step", "after_step", "after_second_step"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tsit_a", "tsit_ast_a"])
@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=pytest.mark.xslow)])
def test_parity_of_the_authors_networks_and_two_steps(golden_root: Path, name: str, fast: bool) -> None:
    rows = check_file(golden_root / "peers" / f"{name}.safetensors", fast=fast)
    assert not [row for row in rows if not row.ok]
    assert {row.output.split(".")[0] for row in rows} == GROUPS


@pytest.mark.xslow
def test_parity_notices_another_strength_of_the_style(golden_root: Path, tmp_path: Path) -> None:
    source, file = golden_root / "peers" / "tsit_ast_a.safetensors", tmp_path / "other.safetensors"
    save_file(load_file(source), file)
    values = json.loads(source.with_suffix(".json").read_text())
    values["config"]["alpha"] = 0.5
    file.with_suffix(".json").write_text(json.dumps(values))
    failed = {row.output for row in check_file(file) if not row.ok}
    assert {"out.eval.fake", "out.train.fake", "loss.generator.GAN"} <= failed
