"""Parity of SPADE: vector files of other options, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lab2pix.data.transforms import instance_edges
from lab2pix.interop.keymap import rename
from lab2pix.interop.vectors import Vectors
from lab2pix.methods.multiscale_vectors import recorded_space
from lab2pix.methods.spade import SPADE, recorded_config
from lab2pix.testing.parity import check_file
from tests.helpers.vectors import write_vectors

STEPS = ("eval", "g1", "d1", "g2", "d2")

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
    terms = {"GAN": 0.0, "GAN_Feat": 0.0, "KLD": 0.0}
    terms = {term: value for term, value in terms.items() if (term != "KLD" or noise)}
    if values["config"].get("no_ganFeat_loss"):
        del terms["GAN_Feat"]
    file = write_vectors(tmp_path, tensors, {**values, "loss.generator": terms})
    rows = {row.output: row for row in check_file(file)}
    assert rows["out.eval.fake"].ok and rows["out.condition_sum"].ok
    assert {f"loss.generator.{term}" for term in terms} <= rows.keys()
    assert not [row for row in rows.values() if row.note]
