"""Vector files of OASIS, DP-GAN and USIS: settings, weights, and the parts of one training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lab2pix.batch import Batch
from lab2pix.errors import CheckpointError
from lab2pix.interop.keymap import load_renamed, rename, weight_names
from lab2pix.interop.part_vectors import PartLosses, PartResults
from lab2pix.interop.step_vectors import gradient_norms, numbered_space, to_image
from lab2pix.interop.vectors import Vectors
from lab2pix.methods.backprop import backward
from lab2pix.methods.base import StepContext, require_images
from lab2pix.methods.segmentation_gan import Part, SegmentationGAN
from lab2pix.methods.step_record import RecordedRandom, collected_outputs
from lab2pix.nn.fast import accelerate

_COUNTER = ".first_norm.num_batches_tracked"
"""The authors' norms with SPADE count no batches."""


@dataclass(frozen=True)
class Recording:
    """Names in the vector files of a method.

    Attributes:
        prefixes: prefix of the weights, by name of the network.
        parts: by name of the phase, the name of the part and of the images that networks other than the generator see.
        losses: returns the terms of a step, `{phase: {term: value}}`, under their names in the file.
    """

    prefixes: Mapping[str, str]
    parts: Mapping[str, tuple[str, Sequence[str]]]
    losses: Callable[[Mapping[str, Mapping[str, float]]], PartLosses]

    def noises(self, vectors: Vectors) -> list[Tensor]:
        """Return the noise of each part, in order; none without 3D noise."""
        names = [f"in.noise.{name.partition('_')[0]}" for name, _ in self.parts.values()]
        return [vectors.tensors[name].float() for name in names if name in vectors.tensors]


def method_of_recording(
    cls: type[SegmentationGAN], names: Recording, vectors: Vectors, sections: dict[str, Any], *, fast: bool
) -> tuple[SegmentationGAN, Batch]:
    """Build the method of a vector file with the recorded weights, and its batch.

    Args:
        cls: the method.
        names: names in the file.
        vectors: content of the file.
        sections: settings of networks, losses and optimizer.
        fast: whether to accelerate the networks, as in training.

    Raises:
        CheckpointError: weights, inputs or settings do not match the method.
    """
    recorded, image = vectors.values["config"], to_image(vectors.tensors["in.image"])
    label = vectors.tensors["in.label"].long().view(len(image), *image.shape[2:])
    space = numbered_space(recorded["semantic_nc"])
    if int(label.max()) >= space.num_classes:
        raise CheckpointError(f"in.label holds {int(label.max())}, but config.semantic_nc is {space.num_classes}")
    sections["loss"]["ignored_classes"] = space.names[:1] if recorded["contain_dontcare_label"] else ()
    settings = {"data": {"size": tuple(image.shape[2:])}, "train": {"ema_decay": recorded["EMA_decay"]}, **sections}
    method = cls(cls.Config.model_validate(settings), space)
    for name, prefix in names.prefixes.items():
        network = method.networks[name]
        load_renamed(network, cls.weight_rules[name], cls.without_unused(vectors.part(f"{prefix}.")), name)
        if fast and name not in method.plain_networks:
            accelerate(network, torch.device("cpu"))
    return method, Batch(label, image)


def replay(method: SegmentationGAN, batch: Batch, names: Recording, vectors: Vectors) -> PartResults:
    """Generate in eval mode, make one training step, and return all results; the weights of the method change."""
    results = PartResults(tuple(names.prefixes.values()))
    for network in method.networks.values():
        _iterate_right_first(network)
    _evaluate(method, batch, names, vectors.tensors.get("in.noise.eval"), results)
    constant = {prefix: _constant(method, vectors.part(f"{prefix}.")) for prefix in names.prefixes.values()}
    noises, mask = names.noises(vectors), vectors.tensors.get("in.labelmix_mask")
    coins = [] if mask is None else [_coins(batch.label, mask, method.label_space.num_channels)]
    context = StepContext(random=RecordedRandom(normal=noises[1:], uniform=coins))
    before = copy.deepcopy(method.networks["generator"])
    specs = method.optimizers
    adams = {
        name: torch.optim.Adam(spec.parameters(method.networks), spec.lr, spec.betas) for name, spec in specs.items()
    }
    losses: dict[str, dict[str, float]] = {}
    for part in method.parts:
        losses[part.name] = _run_part(method, part, batch, noises[0] if noises else None, context, names, results)
        for prefix, norms in results.gradients[names.parts[part.name][0]].items():
            norms.update(dict.fromkeys(constant.get(prefix, ()), 0.0))
        adams[part.network].step()
        for network in method.networks.values():
            network.zero_grad()
        results.states[f"after_{names.parts[part.name][0]}"] = _states(method, names, constant)
    results.losses = names.losses(losses)
    states = _states(method, names, constant)
    _average(before, method.networks["generator"], method.config.train.ema_decay)
    states["EMA"] = rename(before, method.weight_rules["generator"]) | constant[names.prefixes["generator"]]
    results.states["after_step"] = states
    return results


def _constant(method: SegmentationGAN, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the recorded weights and buffers that no step changes: unused ones, and counters."""
    used = method.without_unused(state)
    return {name: weight for name, weight in state.items() if name not in used or name.endswith(_COUNTER)}


def _run_part(
    method: SegmentationGAN,
    part: Part,
    batch: Batch,
    noise: Tensor | None,
    context: StepContext,
    names: Recording,
    results: PartResults,
) -> dict[str, float]:
    """Backpropagate a part's losses to all networks, also those that it does not train, and record what they return."""
    name, images = names.parts[part.name]
    with collected_outputs(method.networks) as outputs:
        terms = part.losses(batch, noise, context)
    backward(terms, context.scale)
    gradients = results.gradients.setdefault(name, {})
    for network, prefix in names.prefixes.items():
        if network == "generator":
            seen = zip([f"{name}.fake"], outputs[network], strict=False)
        else:
            seen = zip([f"{name}.{prefix}_{image}" for image in images], outputs[network], strict=False)
        for label, output in seen:
            _add(results, label, output)
        ours = method.networks[network]
        norms = gradient_norms(ours, weight_names(ours, method.weight_rules[network]))[1]
        gradients[prefix if network == part.network else f"{prefix}_incidental"] = norms
    return {term: value.item() for term, value in terms.items()}


def _iterate_right_first(network: nn.Module) -> None:
    """Let spectral norm update its right vector before its left one, as PyTorch did when the authors trained."""
    convs = [module for module in network.modules() if parametrize.is_parametrized(module, "weight")]
    stacks = [cast(Any, conv.parametrizations).weight for conv in convs]

    @torch.no_grad()
    def iterate(module: nn.Module, inputs: Any) -> None:
        for stack in stacks if module.training else ():
            matrix, norm = stack.original.flatten(1), stack[0]
            norm._v.copy_(F.normalize(matrix.t() @ norm._u, dim=0, eps=norm.eps))
            norm._u.copy_(F.normalize(matrix @ norm._v, dim=0, eps=norm.eps))

    for stack in stacks:
        stack[0].n_power_iterations = 0
    network.register_forward_pre_hook(iterate)


@torch.no_grad()
def _evaluate(
    method: SegmentationGAN, batch: Batch, names: Recording, noise: Tensor | None, results: PartResults
) -> None:
    """Record the image of the generator in eval mode, and what the other networks return for it and the photo."""
    for network in method.networks.values():
        network.eval()
    images = {"fake": method.draw(batch, None if noise is None else noise.float()), "real": require_images(batch)}
    results.outputs["eval.fake"] = images["fake"]
    for name, prefix in names.prefixes.items():
        for label, image in images.items() if name != "generator" else ():
            _add(results, f"eval.{prefix}_{label}", method.networks[name](image))
    for network in method.networks.values():
        network.train()


def _add(results: PartResults, name: str, output: Any) -> None:
    """Record what a network returns: an image or logits, or logits with scores and features (DP-GAN)."""
    if isinstance(output, Tensor):
        results.outputs[name] = output.detach()
        return
    logits, scores, features = output
    results.outputs[name] = logits.detach()
    results.outputs |= {f"{name}.score{index}": score.detach() for index, score in enumerate(scores)}
    results.features[f"out.{name}"] = [feature.detach() for feature in features]


def _states(
    method: SegmentationGAN, names: Recording, constant: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Return all weights and buffers under their names in the file."""
    return {
        prefix: rename(method.networks[name], method.weight_rules[name]) | dict(constant[prefix])
        for name, prefix in names.prefixes.items()
    }


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move weights and buffers toward those of a network; integers are truncated."""
    state = network.state_dict()
    for name, weight in average.state_dict().items():
        weight.copy_(decay * weight + (1 - decay) * state[name])


def _coins(label: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Return a uniform number per class that yields the recorded mask of LabelMix: below 1/2 where it is 1."""
    real = torch.zeros(classes)
    real[label.flatten()] = mask.flatten().float()
    return 0.75 - 0.5 * real
