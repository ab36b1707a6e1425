"""Parity of SPADE and CC-FPSE: the authors' recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab2pix.testing.parity import check_file

GROUPS = {"out", "loss", "features", "grad_norm", "grad_norm_by_tensor", "second_step", "after_step"}


@pytest.mark.parametrize("name", ["spade_a", "spade_vae_a", "ccfpse_a"])
@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=pytest.mark.xslow)])
def test_parity_of_the_authors_networks_and_two_steps(golden_root: Path, name: str, fast: bool) -> None:
    rows = check_file(golden_root / "peers" / f"{name}.safetensors", fast=fast)
    assert not [row for row in rows if not row.ok]
    assert {row.output.split(".")[0] for row in rows} == {*GROUPS, "after_second_step"}


def test_parity_notices_wrong_weights_losses_and_rates(golden_root: Path, tmp_path: Path) -> None:
    source, file = golden_root / "peers" / "spade_vae_a.safetensors", tmp_path / "other.safetensors"
    tensors = load_file(source)
    tensors["E.fc_var.bias"] = tensors["E.fc_var.bias"] + 0.5
    save_file({**tensors, "in.surprise": torch.zeros(1)}, file)
    values = json.loads(source.with_suffix(".json").read_text())
    values["config"]["gan_mode"] = "ls"
    values["optimizer"]["betas"] = [0.5, 0.999]
    file.with_suffix(".json").write_text(json.dumps(values))
    failed = {row.output for row in check_file(file) if not row.ok}
    assert {
        *("in.surprise", "out.eval.logvar", "out.eval.fake", "loss.generator.KLD", "loss.discriminator.D_Fake"),
        *("after_second_step.delta_abs_sum.D", "grad_norm.after_generator_half.E"),
    } <= failed
    assert "out.eval.mu" not in failed


def test_unknown_options_of_a_recording_are_named(golden_root: Path, tmp_path: Path) -> None:
    source, file = golden_root / "peers" / "spade_a.safetensors", tmp_path / "other.safetensors"
    save_file(load_file(source), file)
    values = json.loads(source.with_suffix(".json").read_text())
    for option, words in (("gan_mode", "hinge"), ("num_upsampling_layers", "most")):
        changed = {**values, "config": {**values["config"], option: "strange"}}
        file.with_suffix(".json").write_text(json.dumps(changed))
        [row] = check_file(file)
        assert f"config.{option} is 'strange'" in row.note
        assert words in row.note


def test_recording_without_feature_matching_is_compared_too(golden_root: Path, tmp_path: Path) -> None:
    """The generator phase then leaves real images out, but recordings hold what discriminators say of them."""
    source, file = golden_root / "peers" / "ccfpse_a.safetensors", tmp_path / "other.safetensors"
    save_file(load_file(source), file)
    values = json.loads(source.with_suffix(".json").read_text())
    values["config"]["no_ganFeat_loss"] = True
    file.with_suffix(".json").write_text(json.dumps(values))
    rows = {row.output: row for row in check_file(file)}
    assert rows["out.D.pred3.real"].ok
    assert rows["features.D.enc5.real_norm"].ok
    assert rows["loss.generator.GAN"].ok
    assert not rows["loss.generator.GAN_Feat"].ok
    assert not rows["grad_norm.after_generator_half.G"].ok
