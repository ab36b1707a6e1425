"""Training from Python by the name of a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab2pix.config.schema import RunConfig
from lab2pix.recipes import load_config, require_data_root
from lab2pix.training import loop
from lab2pix.training.callbacks import Callback
from lab2pix.training.loop import RunResult
from lab2pix.training.monitor import Validator
from lab2pix.utils.files import expand_user


def train(
    config: str | Path | Mapping[str, Any] | RunConfig,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: Path | str | None = None,
    resume: bool = False,
    device: str | None = None,
    validators: Sequence[Validator] = (),
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train a method, in a single process or distributed under torchrun.

    Args:
        config: name of a preset, path of a YAML file, nested mapping, or `RunConfig`.
        overrides: settings to change, such as `{"train.steps": 3}` or `["train.steps=3"]`.
        out: run folder; new or empty, or with `resume` an existing run. None: `runs/NAME`, where NAME is `config.name`.
        resume: continue from the latest checkpoint, with the same results as an uninterrupted run.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; None: the best one available.
        validators: functions of state, run folder and step that return more validation scores.
        callbacks: hooks of the session, in process 0, besides the loggers of the settings.

    Returns:
        The result, with the run folder as `path`, for `Synthesizer(result.path)`.

    Raises:
        ConfigError: a setting is unknown or conflicts with another, the device, or the run to resume.
        Lab2PixError: see `lab2pix.training.loop.train`.
    """
    loaded = load_config(config, overrides)
    require_data_root(loaded)
    run = Path("runs", loaded.name) if out is None else expand_user(out)
    return loop.train(loaded, run, resume=resume, device=device, validators=validators, callbacks=callbacks)
