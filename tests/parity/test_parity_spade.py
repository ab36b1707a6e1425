"""Parity of SPADE and CC-FPSE: the authors' recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab2pix.data.transforms import instance_edges
from lab2pix.interop.keymap import rename
from lab2pix.interop.vectors import Vectors
from lab2pix.methods.multiscale_vectors import recorded_space
from lab2pix.methods.spade import SPADE, recorded_config
from lab2pix.testing.parity import check_file

STEPS = ("eval", "g1", "d1", "g2", "d2")

GROUPS = {"out", "loss", "features", "grad_norm", "grad_norm_by_tensor", "second_step", "after_step"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spade_a", "spade_vae_a", "ccfpse_a"])
@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=pytest.mark.xslow)])
def test_parity_of_the_authors_networks_and_two_steps(golden_root: Path, name: str, fast: bool) -> None:
    rows = check_file(golden_root / "peers" / f"{name}.safetensors", fast=fast)
    assert not [row for row in rows if not row.ok]
    assert {row.output.split(".")[0] for row in rows} == {*GROUPS, "after_second_step"}


@pytest.mark.slow
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


@pytest.mark.slow
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


# --- recordings of other options, made here -----------------------------------------------------------------------

SPADE_BASE = {
    **{"label_nc": 3, "no_instance": True, "contain_dontcare_label": False, "use_vae": False, "ngf": 2, "ndf": 2},
    **{"modulation_hidden": 3, "crop_size": 64, "aspect_ratio": 1.0, "height": 64, "width": 64, "vgg_term": False},
}
OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "most": (
        {"num_upsampling_layers": "most", "height": 128, "width": 256, "gan_mode": "ls"},
        {"G.up_4.conv_s.weight_orig", "G.fc.bias", "D.discriminator_1.model4.0.weight"},
    ),
    "layers and scales": (
        {"n_layers_D": 3, "num_D": 3, "gan_mode": "original", "no_instance": False},
        {"D.discriminator_2.model3.0.bias", "D.discriminator_0.model2.0.0.weight_v"},
    ),
    "style": (
        {"use_vae": True, "num_upsampling_layers": "more", "width": 128, "gan_mode": "w", "lambda_kld": 0.1},
        {"E.layer6.0.weight_orig", "E.fc_var.bias"},
    ),
    "no feature matching": ({"no_ganFeat_loss": True, "contain_dontcare_label": True}, set()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_a_recording_is_a_setting(tmp_path: Path, name: str) -> None:
    """Weights have the authors' names, and two steps from them give the same values again."""
    changes, expected = OPTIONS[name]
    values: dict[str, Any] = {
        "system": "spade",
        "config": {**SPADE_BASE, **changes},
        "optimizer": {"lr_generator": 2e-4, "lr_discriminator": 2e-4, "betas": [0.5, 0.999]},
    }
    torch.manual_seed(0)
    method = SPADE(recorded_config(Vectors({}, values)), recorded_space(Vectors({}, values)))
    size, batch = method.config.data.size, 2
    random = torch.Generator().manual_seed(0)
    tensors = {
        "in.label": torch.randint(0, 3, (batch, *size), generator=random).to(torch.uint8),
        "in.instance": torch.randint(0, 3, (batch, *size), generator=random).to(torch.int32),
        "in.image": torch.randint(0, 256, (batch, 3, *size), generator=random).to(torch.uint8),
    }
    if values["config"]["use_vae"]:
        tensors |= {f"in.eps.{step}": torch.randn(batch, 256, generator=random) for step in STEPS}
    generator, discriminator = method.networks["generator"], method.networks["discriminator"]
    for network, rules in zip((generator, discriminator), method.weight_rules(), strict=True):
        for key, tensor in rename(network, rules).items():
            prefix = "D." if network is discriminator else "E." if key.startswith("image_encoder.") else "G."
            tensors[prefix + key.removeprefix("image_encoder.")] = tensor
    assert expected <= tensors.keys()
    with torch.no_grad():
        generator.eval()
        image = tensors["in.image"].float() / 127.5 - 1
        one_hot = method.label_space.one_hot(tensors["in.label"].long())
        edges = instance_edges(tensors["in.instance"].long())
        condition = one_hot if values["config"]["no_instance"] else torch.cat([one_hot, edges], 1)
        noise = {"noise": tensors["in.eps.eval"], "style": image} if "in.eps.eval" in tensors else {}
        tensors["out.eval.fake"] = generator(condition, **noise)
        tensors["out.condition_sum"] = condition.sum((2, 3))
    file = tmp_path / "made.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    terms = {"GAN": 0.0, "GAN_Feat": 0.0, "KLD": 0.0}
    terms = {term: value for term, value in terms.items() if (term != "KLD" or noise)}
    if values["config"].get("no_ganFeat_loss"):
        del terms["GAN_Feat"]
    file.with_suffix(".json").write_text(json.dumps({**values, "loss.generator": terms}))
    rows = {row.output: row for row in check_file(file)}
    assert rows["out.eval.fake"].ok and rows["out.condition_sum"].ok
    assert {f"loss.generator.{term}" for term in terms} <= rows.keys()
    assert not [row for row in rows.values() if row.note]
