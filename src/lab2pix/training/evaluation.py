"""Evaluation during training, with the same scores as `lab2pix evaluate RUN` for the same weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data.build import AnyDataset, build_dataset, has_held_out_photos, is_paired, open_held_out_photos
from lab2pix.data.datasets import SampleSource
from lab2pix.data.transforms import float_to_uint8
from lab2pix.errors import ConfigError, TrainingError, WeightsError, did_you_mean
from lab2pix.evaluation.accumulator import MetricAccumulator, Networks
from lab2pix.evaluation.features import INCEPTION
from lab2pix.evaluation.held_out import (
    SEGMENTATION_SCORES,
    evaluate_generator,
    held_out_noise,
    score_names,
    style_origin,
    with_styles,
)
from lab2pix.evaluation.protocol import Protocol, load_networks
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, generate_deterministic
from lab2pix.reporting.scores import EVALUATION_TITLES, higher_is_better
from lab2pix.training.state import Best, TrainingState
from lab2pix.utils.distributed import DistributedContext

_SEED = 0  # noise seed, the default of `lab2pix evaluate`; independent of the seed of the run


def is_better(name: str, value: float, best: Best | None) -> bool:
    """Return whether a value is the best so far of its score; a value that is not finite never is."""
    if not math.isfinite(value):
        return False
    if best is None or best.score != name:
        return True
    return value > best.value if higher_is_better(name) else value < best.value


def validation_score_names(method: Method) -> tuple[str, ...]:
    """Return the names of the method's validation scores; empty without held-out data.

    `checkerboard` is among the evaluation scores if there are any.
    """
    if method.config.data.val_split is None:
        return ()
    return (*method.score_names, *(("checkerboard",) if method.config.train.evaluate_every is None else ()))


def evaluation_names(config: RunConfig) -> tuple[str, ...]:
    """Return the names of the evaluation scores of a run; empty if `train.evaluate_every` is null."""
    if config.train.evaluate_every is None:
        return ()
    evaluation = config.evaluation
    return score_names(
        evaluation.features,
        segmenter=evaluation.segmenter is not None,
        pairs=is_paired(config.data),
        photos=has_held_out_photos(config.data),
        samples=evaluation.samples,
    )


def check_best(method: Method, *, more: bool = False) -> None:
    """Raise ConfigError if `checkpoint.best` names an unknown score, or if the method lacks inputs for evaluation.

    With custom validators (`more`), names are unknown before the first validation, which repeats the check.
    """
    name, config = method.config.checkpoint.best, method.config
    _check_sampling(method)
    names = (*validation_score_names(method), *evaluation_names(config))
    if name is None or more or name in names:
        return
    if name in SEGMENTATION_SCORES and config.train.evaluate_every is not None:
        raise ConfigError(f"checkpoint.best names '{name}', which takes a segmenter; set evaluation.segmenter")
    if (name in EVALUATION_TITLES or name.startswith(("frechet_", "kernel_"))) and config.train.evaluate_every is None:
        raise ConfigError(
            f"checkpoint.best names '{name}', which the evaluator gives, but train.evaluate_every is null; set it to "
            "the steps between such scores"
        )
    hint = did_you_mean(name, names) if names else "; this run takes no scores (set data.val_split)"
    raise ConfigError(f"checkpoint.best names an unknown score '{name}'{hint}")


def _check_sampling(method: Method) -> None:
    """Raise ConfigError if the method does not support the evaluation settings."""
    config, sampling = method.config, method.sampling
    if config.train.evaluate_every is None:
        return
    if config.evaluation.segmenter is not None and sampling.condition.source != "labels":
        raise ConfigError(
            f"evaluation.segmenter segments classes, but the run generates from {sampling.condition.source}, which "
            "have none; set evaluation.segmenter=null"
        )
    if config.evaluation.samples > 1 and not sampling.noise_channels:
        raise ConfigError(
            f"evaluation.samples is {config.evaluation.samples}, but the method takes no noise, so there is one image "
            "per input; set evaluation.samples=1"
        )


def biased_feature_warnings(method: Method) -> list[str]:
    """Return a warning for each feature network of the evaluation that the method also trains against."""
    uses = method.feature_networks()
    return [
        f"distances in features of {name} are biased in favor of this run, which learns against that network "
        f"({uses[name]}); to compare it with other methods, set evaluation.features to another one, such as [inception]"
        for name in method.config.evaluation.features
        if name in uses
    ]


class Evaluation:
    """Evaluation of the weights that would be exported; it does not influence training.

    Attributes:
        notes: remarks on the latest scores.
    """

    def __init__(
        self,
        method: Method,
        networks: Networks,
        dataset: AnyDataset,
        photos: SampleSource | None,
        dist: DistributedContext,
    ) -> None:
        self.method = method
        self.networks = networks
        self.dataset = dataset
        self.photos = photos
        self.dist = dist
        self.notes: list[str] = []

    def scores(self, state: TrainingState) -> dict[str, float]:
        """Return the scores by name on process 0, and an empty dict elsewhere; collective over all processes.

        Args:
            state: training state, with the sampling generator in evaluation mode.

        Raises:
            DataError: unreadable held-out file.
            TrainingError: generated images are not finite.
        """
        method, settings, dist = self.method, self.method.config.evaluation, self.dist
        shape = method.sampling.noise_shape(method.config.data.size)
        origin = style_origin(method.sampling, "noise")
        generator = _broadcast_from_rank0(state.sampling_generator, dist)

        def generate(batch: Batch, indices: Sequence[int], seed: int) -> Tensor:
            noise = None if shape is None else held_out_noise(seed, indices, shape).to(dist.device)
            given = with_styles(batch, indices, origin, self.photos).to(dist.device)
            image = generate_deterministic(generator, method.sampling, given, noise)[0]
            if not bool(image.isfinite().all()):
                raise TrainingError(
                    f"the network generates pixels that are not finite after step {state.step}; resume from the last "
                    "checkpoint with lower learning rates or train.precision=fp32"
                )
            return float_to_uint8(image)

        accumulator = MetricAccumulator(self.networks, settings.samples, seed=_SEED)
        evaluate_generator(
            accumulator,
            self.dataset,
            generate,
            photos=self.photos,
            count=settings.count,
            seed=_SEED,
            batch_size=settings.batch_size,
            distributed=dist,
        )
        self.notes = accumulator.notes()
        found = accumulator.compute() if dist.main else {}
        return {name: score.mean for name, score in found.items() if score.mean is not None}


def _broadcast_from_rank0(network: nn.Module, dist: DistributedContext) -> nn.Module:
    """Return a copy of the network of process 0 with contiguous weights, as if loaded from a file.

    Between steps, batch norm statistics differ by process. With channels-last weights, other convolution kernels run,
    which round differently.
    """
    same = copy.deepcopy(network)
    for tensor in (*same.parameters(), *same.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        if dist.size > 1:
            torch.distributed.broadcast(tensor.data, src=0)
    return same


def build_evaluation(method: Method, dist: DistributedContext) -> Evaluation | None:
    """Build the evaluation of a run, or return None if `train.evaluate_every` is null.

    Collective over all processes; called before the first step.

    Raises:
        ConfigError: nothing to score, or unknown network.
        DataError: missing held-out files.
        LabelError: the segmenter was trained with other classes.
        WeightsError: missing or invalid weights, or a network that does not support this image size.
    """
    config, label_space = method.config, method.label_space
    if config.train.evaluate_every is None:
        return None
    if not evaluation_names(config):
        raise ConfigError(
            f"train.evaluate_every is set, but there is nothing to score, as {config.data.images.root} has no folder "
            f"'{config.data.val_split}' of photos to compare with; add it, set evaluation.segmenter, or set "
            "train.evaluate_every=null"
        )
    dataset = build_dataset(config.data, "val", label_space, config.seed, paired=method.paired)
    photos = open_held_out_photos(config.data, label_space, config.seed)
    for what, held_out in (("label map", dataset), ("photo", photos)):
        if held_out is not None and len(held_out) < 2:
            raise ConfigError(
                f"train.evaluate_every is set, but only {len(held_out)} {what} is held out (data.val_split="
                f"{config.data.val_split}), which makes no set to score; hold out two or more, or set it to null"
            )
    # Process 0 first: it may download weights that all processes load.
    loaded: list[Networks] = []
    dist.run_on_main(lambda: loaded.append(_load(config, label_space)))
    networks = loaded[0] if loaded else _load(config, label_space)
    networks.to(dist.device)
    with torch.random.fork_rng([dist.device] if dist.device.type == "cuda" else []):
        _dry_run(networks, config.data.size)
    return Evaluation(method, networks, dataset, photos, dist)


def _dry_run(networks: Networks, size: tuple[int, int]) -> None:
    """Run all networks on batches of one and two blank images of the run's size, to fail before training.

    Raises:
        LabelError: the channels of the segmenter do not match its classes.
        WeightsError: a network does not support such images.
    """
    for count in (1, 2):
        trial = torch.zeros(count, 3, *size, dtype=torch.uint8)
        for network in networks.features:
            network(trial)
        if networks.segmenter is not None:
            networks.segmenter(trial, size)


def _load(config: RunConfig, label_space: LabelSpace) -> Networks:
    settings = config.evaluation
    weights = None if settings.inception_weights is None else Path(settings.inception_weights)
    protocol = Protocol(features=settings.features, segmenter=settings.segmenter, inception_weights=weights)
    try:
        return load_networks(protocol, label_space)
    except WeightsError as error:  # name the setting of the run instead of the command-line option
        raise WeightsError(str(error).replace(INCEPTION.setting, "evaluation.inception_weights")) from error
