"""What a training step costs, measured apart from long trainings, which say little about time on a shared machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from lab2pix.config.schema import RunConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.samples import collate
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Progress, build_method
from lab2pix.training.sampler import draw_noise
from lab2pix.training.state import build_state
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils.distributed import DistributedContext, init_distributed

__all__ = ["StepClock", "seconds_of_steps"]


class StepClock:
    """A run's step, ready to be made again and again on one batch of its own data.

    Args:
        config: the run.
        team: this process.
    """

    def __init__(self, config: RunConfig, team: DistributedContext) -> None:
        space = LabelSpace.load(config.data.label_space)
        method = build_method(config, space)
        method.to(team.device, torch.channels_last if config.train.channels_last else torch.preserve_format)
        self.team, self.state = team, build_state(method, team.device)
        self.context = replace(build_step_context(self.state, team.device), progress=Progress(1, 3))
        dataset = build_dataset(config.data, "train", space, config.seed, paired=method.paired)
        size = config.train.batch_size
        batch = collate([dataset[(0, place)] for place in range(size)]).to(team.device)
        self.parts = [(batch, draw_noise(0, 0, 0, size, method.sampling.noise_shape(config.data.size) or ()).to(team.device))]

    def __call__(self) -> float:
        """Make a step; return its processor time in seconds."""
        began = time.process_time()
        training_step(self.state, self.parts, self.context, self.team)
        return time.process_time() - began


def seconds_of_steps(configs: Mapping[str, RunConfig], turns: int) -> dict[str, float]:
    """Return the median processor time of a step by name, on one thread and the CPU, all taking turns.

    Args:
        configs: the runs.
        turns: how many steps of each count, after one that does not.
    """
    torch.set_num_threads(1)
    with init_distributed("cpu") as team:
        clocks = {name: StepClock(config, team) for name, config in configs.items()}
        for clock in clocks.values():
            clock()
        found: dict[str, list[float]] = {name: [] for name in clocks}
        for _ in range(turns):
            for name, clock in clocks.items():
                found[name].append(clock())
    return {name: statistics.median(values) for name, values in found.items()}
