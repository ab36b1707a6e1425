"""Image-to-image translation: condition, checks, and the recording of a step, for methods from label maps or images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig, SourceConfig
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.conversion import ConversionOptions, fit_label_space
from lab2pix.interop.step_vectors import gradient_norms
from lab2pix.labels.space import LabelClass, LabelSpace, generate_colors
from lab2pix.losses import ADVERSARIAL_TERMS
from lab2pix.methods.base import Losses, Method, RandomSource, StepContext
from lab2pix.methods.sampling import Condition

__all__ = [
    "Encoding",
    "RecordedRandom",
    "StepRecord",
    "adversarial",
    "backward",
    "build_condition",
    "check_adversarial",
    "check_encoding",
    "fill",
    "infer_inputs",
    "mean_distance",
    "numbered_space",
    "plain_names",
    "require_images",
]

Encoding = Literal["one-hot", "colors"]


class _Generator(Protocol):
    @property
    def encoding(self) -> Encoding: ...


class _TranslationConfig(Protocol):
    """Settings of a method that generates from label maps, line drawings or images."""

    @property
    def data(self) -> DataConfig: ...

    @property
    def generator(self) -> _Generator: ...


def build_condition(config: _TranslationConfig, label_space: LabelSpace) -> Condition:
    """Return the encoder of the generator's input: source images, line drawings or label maps."""
    if config.data.input == "images":
        return Condition(label_space, "images", channels_of_images=config.data.source.channels)
    if label_space.name == "sketch":
        return Condition(label_space, "lines")
    return Condition(label_space, encoding=config.generator.encoding, edges=config.data.instance_edges)


def check_encoding(config: _TranslationConfig) -> None:
    """Check that the encoding `colors` is used for label maps only.

    Raises:
        ConfigError: the inputs are images or line drawings.
    """
    data = config.data
    if config.generator.encoding == "colors" and (data.input == "images" or data.label_space == "sketch"):
        raise ConfigError(
            "generator.encoding is 'colors', which is how label maps enter, but the run generates from "
            f"{'images' if data.input == 'images' else 'line drawings'}; set generator.encoding=one-hot"
        )


def require_images(batch: Batch) -> Tensor:
    """Return the images of a batch that must have some."""
    if batch.image is None:
        raise ValueError("training needs images")
    return batch.image


# --- losses -----------------------------------------------------------------------------------------------------------


def adversarial(kind: str, role: Literal["generator", "real", "fake"], logits: Tensor) -> Tensor:
    """Return an adversarial loss, averaged over logits.

    Args:
        kind: form of the loss, a name in `ADVERSARIAL_TERMS`.
        role: loss of the generator, or of a discriminator on real or on fake images.
        logits: of any shape.
    """
    terms = dict(zip(("generator", "real", "fake"), ADVERSARIAL_TERMS[kind], strict=True))
    return terms[role](logits.float()).mean()


def mean_distance(images: Tensor, others: Tensor) -> Tensor:
    """Return the mean absolute difference, computed in float32."""
    return (images.float() - others.float()).abs().mean()


def backward(losses: Losses, context: StepContext) -> Losses:
    """Backpropagate the sum of terms and return the detached terms."""
    context.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
    return {name: value.detach() for name, value in losses.items()}


# --- recording of a step ----------------------------------------------------------------------------------------------


def check_adversarial(recorded: object) -> None:
    """Check the name of the adversarial loss in a vector file.

    Raises:
        CheckpointError: there is no such loss.
    """
    if recorded not in ADVERSARIAL_TERMS:
        raise CheckpointError(f"config.gan_mode is {recorded!r}; known: {[*ADVERSARIAL_TERMS]}")


class RecordedRandom(RandomSource):
    """Random source that returns recorded numbers, in their order.

    Args:
        normal: results of `normal`, of any shape with as many elements as requested.
        uniform: results of `uniform`.
        permutation: starts of the permutations.
    """

    def __init__(
        self, normal: Iterable[Tensor] = (), uniform: Iterable[Tensor] = (), permutation: Iterable[Tensor] = ()
    ) -> None:
        super().__init__()
        self._normal, self._uniform, self._permutation = iter(normal), iter(uniform), iter(permutation)

    def normal(self, *shape: int) -> Tensor:
        """Return the next recorded samples of N(0, 1)."""
        return next(self._normal).float().reshape(shape)

    def uniform(self, *shape: int) -> Tensor:
        """Return the next recorded samples of U[0, 1)."""
        return next(self._uniform).float().reshape(shape)

    def permutation(self, count: int) -> Tensor:
        """Return the recorded start of the next permutation."""
        return next(self._permutation).long()


class StepRecord:
    """Record of one training step: outputs, losses and gradient norms.

    Args:
        method: the method; its weights change if `update` is set.
        batch: inputs and images.
        update: whether the optimizers of each phase step after it, as in training.
        names: returns the name of every weight of a network in the authors' code, by our name.
        noise: noise of the batch.
        random: random numbers of the step.

    Attributes:
        outputs: results of each network's forward passes, in order, without gradients.
        losses: values by `PHASE.TERM`.
        gradients: per network the global gradient norm, and the norm of each weight by the authors' name.
    """

    def __init__(
        self,
        method: Method,
        batch: Batch,
        *,
        update: bool,
        names: Callable[[nn.Module], Mapping[str, str]],
        noise: Tensor | None = None,
        random: RandomSource | None = None,
    ) -> None:
        self.outputs: dict[str, list[Any]] = {name: [] for name in method.networks}
        self.losses: dict[str, float] = {}
        self.gradients: dict[str, tuple[float, dict[str, float]]] = {}
        hooks = [network.register_forward_hook(self._hook(name)) for name, network in method.networks.items()]
        specs = method.optimizers
        context = StepContext(random=random or RandomSource())
        for phase in method.phases:
            terms = phase.backward(batch, noise, context)
            self.losses |= {f"{phase.name}.{name}": value.item() for name, value in terms.items()}
            for spec in (specs[name] for name in phase.optimizers):
                networks = {name: method.networks[name] for name in spec.networks}
                for name, network in networks.items():
                    self.gradients[name] = gradient_norms(network, names(network))
                if update:
                    weights = [weight for network in networks.values() for weight in network.parameters()]
                    adam = torch.optim.Adam(weights, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay)
                    adam.step()
            for network in method.networks.values():
                network.zero_grad()
        for hook in hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: self.outputs[name].append(_detached(output))


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    assert isinstance(output, Sequence)
    return [_detached(part) for part in output]


def numbered_space(classes: int) -> LabelSpace:
    """Return a label space of `classes` numbered classes, or of one if there are none."""
    colors = generate_colors(max(1, classes))
    return LabelSpace("numbered", tuple(LabelClass(f"class {index}", color) for index, color in enumerate(colors)))


# --- conversion -------------------------------------------------------------------------------------------------------

_WRAPPERS = re.compile(r"(^|(?<=\.))((module|_orig_mod)\.)+")
Network = TypeVar("Network", bound=nn.Module)


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes of wrapper modules."""
    return {_WRAPPERS.sub("", name): weight for name, weight in weights.items()}


def fill(network: Network, weights: Mapping[str, Tensor]) -> Network:
    """Load weights strictly, and return the network.

    Raises:
        CheckpointError: a weight is missing, unexpected or of another shape.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"the released weights do not fit {type(network).__name__}: {first}") from error
    return network


def infer_inputs(
    path: Path, channels: int, options: ConversionOptions, side: int
) -> tuple[LabelSpace, DataConfig, Encoding]:
    """Return label space, data settings and encoding of a converted generator.

    The generator translates images unless a label space is given; then three channels are the colors of that space.

    Args:
        path: the checkpoint, for errors.
        channels: input channels of the generator.
        options: options of the conversion.
        side: height and width if the options give none.

    Raises:
        CheckpointError: the label space does not fit.
    """
    data: dict[str, Any] = {"size": options.size or (side, side)}
    if options.label_space is None:
        source = SourceConfig(channels=channels)
        space = LabelSpace.load(DataConfig().label_space)
        return space, DataConfig(input="images", source=source, label_space=space.name, **data), "one-hot"
    data["label_space"] = options.label_space
    space = LabelSpace.load(options.label_space)
    if space.name == "sketch":
        if channels != 1:
            raise CheckpointError(
                f"{path} sees images of {channels} channels, but line drawings have one; leave out --label-space, and "
                "give the drawings as images"
            )
        return space, DataConfig(**data), "one-hot"
    if channels == 3:
        return space, DataConfig(**data), "colors"
    fit = fit_label_space(path, channels, options, edges_possible=True)
    if fit.without_unknown:
        raise CheckpointError(f"{path} has no channel for unknown pixels, which '{fit.space.name}' has")
    return fit.space, DataConfig(instance_edges=fit.edges, **data), "one-hot"
