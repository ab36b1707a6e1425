"""Scores of the evaluator while a run trains: those that `lab2pix evaluate RUN` gives of the same weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.data.build import AnyDataset, build_dataset, has_held_out_photos, is_paired, open_held_out_photos
from lab2pix.data.datasets import SampleSource
from lab2pix.data.transforms import float_to_uint8
from lab2pix.errors import ConfigError, TrainingError, WeightsError, did_you_mean
from lab2pix.evaluation.accumulator import MetricAccumulator, Networks
from lab2pix.evaluation.features import INCEPTION
from lab2pix.evaluation.held_out import SEGMENTATION_SCORES, evaluate_generator, held_out_noise, score_names
from lab2pix.evaluation.protocol import Protocol, load_networks
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, generate_deterministic
from lab2pix.reporting.scores import EVALUATION_TITLES, higher_is_better
from lab2pix.training.state import Best, TrainingState
from lab2pix.utils.distributed import DistributedContext

__all__ = [
    "Evaluation",
    "biased_feature_warnings",
    "build_evaluation",
    "check_best",
    "evaluation_names",
    "is_better",
    "validation_score_names",
]

_SEED = 0  # of noise, as `lab2pix evaluate` has it unless told otherwise: the run's seed must not decide its scores


def is_better(name: str, value: float, best: Best | None) -> bool:
    """Tell whether a value is the best so far; one of another score does not count, and no number is not good."""
    if not math.isfinite(value):
        return False
    if best is None or best.score != name:
        return True
    return value > best.value if higher_is_better(name) else value < best.value


def validation_score_names(method: Method) -> tuple[str, ...]:
    """Return what the method's own validation scores will be called; none where nothing is held out."""
    return method.score_names if method.config.data.val_split is not None else ()


def evaluation_names(config: Config) -> tuple[str, ...]:
    """Return which scores the evaluator will give of a run; none where `train.evaluate_every` is off."""
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
    """Raise ConfigError where `checkpoint.best` names a score that nobody will give.

    Args:
        method: of the run.
        more: whether there are validators of the caller's own; what these return is known only when they do, and then
            the first validation tells.
    """
    name, config = method.config.checkpoint.best, method.config
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


def biased_feature_warnings(config: Config) -> list[str]:
    """Return a sentence for each feature network that judges a run which learns against that very network."""
    uses: dict[str, list[str]] = {}
    if config.discriminator.kind == "hierarchical":
        uses.setdefault(config.backbone.discriminator, []).append("backbone.discriminator")
    if config.loss.perceptual > 0 or config.loss.consistency > 0:
        uses.setdefault(config.backbone.perceptual, []).append("backbone.perceptual")
    return [
        f"distances in features of {name} are biased in favor of this run, which learns against that network "
        f"({' and '.join(uses[name])}); to compare it with other methods, set evaluation.features to another one, such "
        "as [inception]"
        for name in config.evaluation.features
        if name in uses
    ]


class Evaluation:
    """Judges the weights that would be exported; a run without it makes the same steps.

    Args:
        config: the run.
        label_space: what the class ids mean.
        networks: what it looks through, on the device.
        dataset: the held-out part.
        photos: held-out photos of which nobody knows the label maps.
        team: the processes.

    Attributes:
        notes: what a reader of the latest scores should know.
    """

    def __init__(
        self,
        config: Config,
        label_space: LabelSpace,
        networks: Networks,
        dataset: AnyDataset,
        photos: SampleSource | None,
        team: DistributedContext,
    ) -> None:
        self.config = config
        self.label_space = label_space
        self.networks = networks
        self.dataset = dataset
        self.photos = photos
        self.team = team
        self.notes: list[str] = []

    def scores(self, state: TrainingState) -> dict[str, float]:
        """Return the scores by name; all processes must call this, and process 0 gets them.

        Args:
            state: what is trained; the network to draw with is in evaluation mode.

        Raises:
            DataError: a held-out file cannot be read.
            TrainingError: the network draws what is not finite.
        """
        settings, team = self.config.evaluation, self.team
        generator = _broadcast_from_rank0(state.sampling_generator, team)

        def draw(batch: Batch, places: Sequence[int], seed: int) -> Tensor:
            noise = held_out_noise(seed, places, self.config.generator.noise_dim).to(team.device)
            image = generate_deterministic(generator, self.config, self.label_space, batch.to(team.device), noise)[0]
            if not bool(image.isfinite().all()):
                raise TrainingError(
                    f"the network draws pixels that are not finite after step {state.step}; resume from the last "
                    "checkpoint with lower learning rates or train.precision=fp32"
                )
            return float_to_uint8(image)

        judge = MetricAccumulator(self.networks, settings.samples, seed=_SEED)
        evaluate_generator(
            judge,
            self.dataset,
            draw,
            photos=self.photos,
            count=settings.count,
            seed=_SEED,
            batch_size=settings.batch_size,
            team=team,
        )
        self.notes = judge.notes()
        found = judge.compute() if team.main else {}
        return {name: score.mean for name, score in found.items() if score.mean is not None}


def _broadcast_from_rank0(network: nn.Module, team: DistributedContext) -> nn.Module:
    """Return process 0's network in every process: between steps, batch statistics are each process' own."""
    if team.size == 1:
        return network
    same = network if team.main else copy.deepcopy(network)
    with torch.no_grad():
        for tensor in same.state_dict().values():
            flat = tensor.contiguous()
            dist.broadcast(flat, src=0)
            if not team.main:
                tensor.copy_(flat)
    return same


def build_evaluation(config: Config, label_space: LabelSpace, team: DistributedContext) -> Evaluation | None:
    """Return what judges a run while it trains, or None where `train.evaluate_every` is off.

    All processes must call this, before the first step.

    Raises:
        ConfigError: there is nothing to judge, or no such network.
        DataError: the held-out files are missing.
        LabelError: the segmenter reads other classes.
        WeightsError: weights are missing or not what they should be, or a network cannot take pictures of this size.
    """
    if config.train.evaluate_every is None:
        return None
    if not evaluation_names(config):
        raise ConfigError(
            f"train.evaluate_every is set, but there is nothing to score, as {config.data.images.root} has no folder "
            f"'{config.data.val_split}' of photos to compare with; add it, set evaluation.segmenter, or set "
            "train.evaluate_every=null"
        )
    dataset = build_dataset(config.data, "val", label_space, config.seed)
    photos = open_held_out_photos(config.data, label_space, config.seed)
    for what, held_out in (("label map", dataset), ("photo", photos)):
        if held_out is not None and len(held_out) < 2:
            raise ConfigError(
                f"train.evaluate_every is set, but only {len(held_out)} {what} is held out (data.val_split="
                f"{config.data.val_split}), which makes no set to score; hold out two or more, or set it to null"
            )
    # Process 0 first: it may have to fetch weights for all.
    loaded: list[Networks] = []
    team.run_on_main(lambda: loaded.append(_load(config, label_space)))
    networks = loaded[0] if loaded else _load(config, label_space)
    networks.to(team.device)
    with torch.random.fork_rng([team.device] if team.device.type == "cuda" else []):
        _dry_run(networks, config.data.size)
    return Evaluation(config, label_space, networks, dataset, photos, team)


def _dry_run(networks: Networks, size: tuple[int, int]) -> None:
    """Let all networks see one picture and two of the run's size, so that one that cannot is found before the run.

    Raises:
        LabelError: the segmenter's channels are not the classes that its file says.
        WeightsError: a network cannot take such pictures.
    """
    for count in (1, 2):
        trial = torch.zeros(count, 3, *size, dtype=torch.uint8)
        for network in networks.features:
            network(trial)
        if networks.segmenter is not None:
            networks.segmenter(trial, size)


def _load(config: Config, label_space: LabelSpace) -> Networks:
    settings = config.evaluation
    weights = None if settings.inception_weights is None else Path(settings.inception_weights)
    protocol = Protocol(features=settings.features, segmenter=settings.segmenter, inception_weights=weights)
    try:
        return load_networks(protocol, label_space)
    except WeightsError as error:  # the evaluator's own command has an option where a run has a setting
        raise WeightsError(str(error).replace(INCEPTION.setting, "evaluation.inception_weights")) from error
