"""Dry-run summary of a training run (`lab2pix train --dry-run`)."""

from __future__ import annotations

from typing import Literal

from lab2pix.config.schema import RunConfig
from lab2pix.data.build import build_dataset
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method, get_method
from lab2pix.recipes import lacks_data_root, to_yaml
from lab2pix.training.evaluation import check_best
from lab2pix.training.schedule import total_steps

__all__ = ["summarize_run"]


def summarize_run(config: RunConfig) -> str:
    """Return the resolved settings, with the number of samples, parameters and steps as comments.

    The text is YAML for `load_config`. The networks are built to count parameters; nothing is written.

    Raises:
        DataError: the dataset folder does not match its format.
    """
    label_space = LabelSpace.load(config.data.label_space)
    train, val = _count(config, "train", label_space), _count(config, "val", label_space)
    unit = "pairs" if get_method(config.method).paired else "label maps"
    numbers = {"train": train, "val": val}
    unknown = "unknown, data.root is not set"
    lines = [f"# {split} {unit}: {unknown if count is None else f'{count:,}'}" for split, count in numbers.items()]
    lines += [f"# {name}: {count:,} parameters" for name, count in _parameters(config, label_space).items()]
    return "\n".join([to_yaml(config).rstrip(), *lines, f"# steps: {_steps(config, train, unit)}"])


def _count(config: RunConfig, split: Literal["train", "val"], label_space: LabelSpace) -> int | None:
    """Return the number of samples of a split, or None if `data.root` is unset."""
    if lacks_data_root(config):
        return None
    if split == "val" and config.data.val_split is None:
        return 0
    paired = get_method(config.method).paired
    return len(build_dataset(config.data, split, label_space, config.seed, paired=paired))


def _parameters(config: RunConfig, label_space: LabelSpace) -> dict[str, int]:
    method = build_method(config, label_space, pretrained=False)
    check_best(method)
    return {name: sum(p.numel() for p in network.parameters()) for name, network in method.networks.items()}


def _steps(config: RunConfig, pairs: int | None, unit: str) -> str:
    train = config.train
    if train.steps is None and pairs is None:
        return f"{train.epochs} epochs of the train {unit}, {train.batch_size} at a time"
    return f"{total_steps(train, pairs or 0):,} of {train.batch_size} {unit} each"
