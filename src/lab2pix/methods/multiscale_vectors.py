"""Vector files of SPADE, CC-FPSE and TSIT: settings, weights, and the replay of two steps."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.interop.keymap import Rules, load_renamed
from lab2pix.interop.spade_weights import IMAGE_ENCODER_RULES, with_image_encoder
from lab2pix.interop.step_vectors import numbered_space
from lab2pix.interop.two_step_vectors import check_two_steps, recorded_batch
from lab2pix.interop.vectors import Row, Vectors, recorded_choice
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.multiscale_gan import MultiScaleGAN
from lab2pix.methods.replay import DiscriminatorRecord, RecordedNetwork, StepReplay
from lab2pix.nn.discriminators import ScaleOutput
from lab2pix.nn.fast import accelerate

_ADVERSARIAL = {"hinge": "hinge", "original": "vanilla", "ls": "lsgan", "w": "wgangp"}
"""Our names of the authors' adversarial losses."""
_STEPS = ("g1", "d1", "g2", "d2")
_TERMS = {
    "generator": {
        "kl_divergence": ("KLD", 1.0),
        "adversarial": ("GAN", 1.0),
        "feature_matching": ("GAN_Feat", 1.0),
    },
    "discriminator": {"fake": ("D_Fake", 1.0), "real": ("D_real", 1.0)},
}


def recorded_space(vectors: Vectors) -> LabelSpace:
    """Return the label space of a recording."""
    recorded = vectors.values["config"]
    return numbered_space(recorded["label_nc"], unknown=bool(recorded.get("contain_dontcare_label")))


def recorded_sections(vectors: Vectors) -> dict[str, Any]:
    """Return the settings of a recording that are common to SPADE, CC-FPSE and TSIT.

    Raises:
        CheckpointError: an unknown adversarial loss.
    """
    recorded, optimizer = vectors.values["config"], vectors.values["optimizer"]
    return {
        "data": {
            "size": (recorded["height"], recorded["width"]),
            "instance_edges": not recorded.get("no_instance", False),
        },
        "generator": {
            "width": recorded["ngf"],
            "input": "style" if recorded.get("use_vae") else "label",
            "noise_dim": recorded.get("z_dim", 256),
        },
        "discriminator": {
            "scales": recorded.get("num_D", 2),
            "width": recorded["ndf"],
            "layers": recorded.get("n_layers_D", 4),
        },
        "loss": {
            "adversarial": recorded_choice(recorded, "gan_mode", _ADVERSARIAL, "hinge"),
            "feature_matching": 0 if recorded.get("no_ganFeat_loss") else recorded.get("lambda_feat", 10.0),
            "perceptual": 0,
            "kl_divergence": recorded.get("lambda_kld", 0.05),
        },
        "optimizer": {
            "generator_lr": optimizer["lr_generator"],
            "discriminator_lr": optimizer["lr_discriminator"],
            "betas": tuple(optimizer["betas"]),
        },
    }


def check_recording(
    method: MultiScaleGAN,
    vectors: Vectors,
    rules: Mapping[str, Rules],
    record: Callable[..., DiscriminatorRecord],
    *,
    fast: bool,
    batch: Batch | None = None,
    unused: str | None = None,
) -> Iterator[Row]:
    """Load the recorded weights into a method, replay two steps, and compare every recorded result.

    Args:
        method: the method, with the recorded settings.
        vectors: content of the vector file.
        rules: rules from our names of the weights of each network to the authors'.
        record: returns outputs and features of the discriminators, given theirs for fake and for real images, each a
            list of `ScaleOutput`.
        fast: whether to accelerate the networks, as in training.
        batch: inputs and images; None: label maps, as `recorded_batch` reads them.
        unused: regular expression for the names of recorded weights of the generator that the method does without.

    Raises:
        CheckpointError: weights or inputs do not match the method.
    """
    generator, discriminator = method.networks["generator"], method.networks["discriminator"]
    parts = {prefix: vectors.part(f"{prefix}.") for prefix in "GDE"}
    without = {name for name in parts["G"] if unused is not None and re.search(unused, name)}
    constant = {f"G.{name}": parts["G"].pop(name) for name in without}
    load_renamed(generator, rules["generator"], with_image_encoder(parts["G"], parts["E"]), "generator")
    load_renamed(discriminator, rules["discriminator"], parts["D"], "discriminators")
    if fast:
        for network in method.networks.values():
            accelerate(network, torch.device("cpu"))
    networks = {
        "G": RecordedNetwork(generator, rules["generator"], without="image_encoder."),
        "D": RecordedNetwork(discriminator, rules["discriminator"]),
    }
    encoder = getattr(generator, "image_encoder", None)
    if encoder is not None:
        networks["E"] = RecordedNetwork(encoder, IMAGE_ENCODER_RULES)
    if batch is None:
        batch = recorded_batch(vectors, method.label_space, vectors.values["config"]["label_nc"])
    given = batch
    recorded = {**vectors.part("in.eps."), **vectors.part("in.noise.")}

    def evaluate() -> dict[str, Tensor]:
        condition = method.sampling.condition(given)
        noise = recorded["eval"].float() if "eval" in recorded else None
        fake, posterior = method.draw(given, condition, noise)
        outputs = {"condition_sum": condition.sum((2, 3)), "eval.fake": fake}
        if posterior is not None:
            outputs |= {"eval.mu": posterior[0], "eval.logvar": posterior[1]}
        return outputs

    def record_calls(calls: Sequence[Any]) -> DiscriminatorRecord:
        found = [[call] if isinstance(call, ScaleOutput) else call for call in calls]
        return record(found[0], found[1] if len(found) > 1 else _discriminate_real(method, given))

    noises = {step: recorded[step] for step in _STEPS if step in recorded}
    replay = StepReplay(method, batch, networks, noises=noises, record=record_calls, terms=_TERMS)
    inputs = ["in.image", "in.label", "in.instance", "in.content"]
    inputs += [name for name in vectors.tensors if name.startswith(("in.eps.", "in.noise."))]
    answers = replay.run(evaluate)
    for state in answers.states:
        state.update(constant)
    return check_two_steps(vectors, answers, inputs)


@torch.no_grad()
def _discriminate_real(method: MultiScaleGAN, batch: Batch) -> list[ScaleOutput]:
    """Run a copy of the discriminators on real images, as the generator phase without feature matching does not."""
    own = method.networks["discriminator"]
    method.networks["discriminator"] = copy.deepcopy(own)
    found = method.discriminate(method.sampling.condition(batch), method.real_images(batch))
    method.networks["discriminator"] = own
    return found
