"""Dry-run summary of a training run (`lab2pix train --dry-run`)."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from lab2pix.config.schema import RunConfig
from lab2pix.data.build import build_dataset
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, build_method, get_method
from lab2pix.recipes import lacks_data_root, to_yaml
from lab2pix.training.estimate import estimate_run
from lab2pix.training.evaluation import check_best
from lab2pix.training.schedule import total_steps


def summarize_run(config: RunConfig, *, device: str | None = None, gpu: str | None = None) -> str:
    """Return the resolved settings, with sizes and an estimate of time, memory and disk space as comments.

    The text is YAML for `load_config`. Nothing is written.

    Args:
        config: settings of the run.
        device: device to measure on; None: the best one available.
        gpu: GPU to estimate for instead; see `lab2pix.training.estimate.GPUS`.

    Raises:
        ConfigError: unknown device or GPU.
        DataError: the dataset folder does not match its format.
    """
    label_space = LabelSpace.load(config.data.label_space)
    train, val = _count(config, "train", label_space), _count(config, "val", label_space)
    unit = "pairs" if get_method(config.method).paired else "label maps"
    numbers = {"train": train, "val": val}
    unknown = "unknown, data.root is not set"
    lines = [f"# {split} {unit}: {unknown if count is None else f'{count:,}'}" for split, count in numbers.items()]
    method = build_method(config, label_space, pretrained=False)
    check_best(method)
    for name, network in method.networks.items():
        lines.append(f"# {name}: {sum(p.numel() for p in network.parameters()):,} parameters")
    lines.append(f"# steps: {_steps(config, train, unit)}")
    known = train is not None or config.train.steps is not None
    lines += _estimates(method, total_steps(config.train, train or 0) if known else None, device, gpu)
    return "\n".join([to_yaml(config).rstrip(), *lines])


def _estimates(method: Method, steps: int | None, device: str | None, gpu: str | None) -> list[str]:
    """Return the lines on time, memory and disk space; see `estimate_run`."""
    checkpoint = method.config.checkpoint
    found = estimate_run(method, device=device, gpu=gpu)
    time = f"unknown; {found.where}"
    if found.seconds is not None:
        total = "" if steps is None else f", {timedelta(seconds=round(found.seconds * steps))} in all"
        time = f"{found.seconds:.2g} s a step{total} ({found.where})"
    kept = checkpoint.keep + (checkpoint.best is not None)
    return [
        f"# operations of a step: {found.flops / 1e12:.3g} TFLOP",
        f"# time: {time}",
        f"# memory: {found.memory / 2**30:.1f} GiB",
        f"# checkpoints: {kept} of {found.checkpoint / 2**20:,.0f} MiB",
    ]


def _count(config: RunConfig, split: Literal["train", "val"], label_space: LabelSpace) -> int | None:
    """Return the number of samples of a split, or None if `data.root` is unset."""
    if lacks_data_root(config):
        return None
    if split == "val" and config.data.val_split is None:
        return 0
    paired = get_method(config.method).paired
    return len(build_dataset(config.data, split, label_space, config.seed, paired=paired))


def _steps(config: RunConfig, pairs: int | None, unit: str) -> str:
    train = config.train
    if train.steps is None and pairs is None:
        return f"{train.epochs} epochs of the train {unit}, {train.batch_size} at a time"
    return f"{total_steps(train, pairs or 0):,} of {train.batch_size} {unit} each"
