"""Toy method and data for the training loop, and a server of forked training processes.

Run as a program, it reads one JSON job per line from standard input, trains in a forked child process, and replies with
the process id at once and with the exit status at the end; torch is imported once for all jobs. A job as its argument
is trained in its own process.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.errors import DataError, Lab2PixError
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import (
    Condition,
    Losses,
    Method,
    OptimizerSpec,
    Phase,
    Sampling,
    StepContext,
    every,
    linear_decay,
    register,
)
from lab2pix.training import Validator, evaluation, loop, monitor
from lab2pix.utils.seeding import stable_seed

SIDE = 8
SAMPLES = 7  # a batch of 4 is never a whole part of an epoch


class ToyData:
    """Random label maps and photos, mirrored by (epoch, index)."""

    def __init__(self, count: int = SAMPLES, *, broken: int | None = None, delay: float = 0.0) -> None:
        self.count, self.broken, self.delay = count, broken, delay

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        if index == self.broken:
            raise DataError(f"photo {index} cannot be read")
        time.sleep(self.delay)
        generator = torch.Generator().manual_seed(index)
        label = torch.randint(0, 14, (SIDE, SIDE), generator=generator)
        image = torch.rand(3, SIDE, SIDE, generator=generator) * 2 - 1
        if stable_seed(epoch, index) % 2:
            label, image = label.flip(-1), image.flip(-1)
        return {"label": label, "image": image, "edges": None, "name": f"{epoch}-{index}"}

    def file_hash(self) -> str:
        return f"toy-{self.count}"


class ToyGenerator(nn.Module):
    def __init__(self, norm: str = "batch") -> None:
        super().__init__()
        self.start = nn.Linear(4, 8)
        self.first = spectral_norm(nn.Conv2d(14 + 8, 8, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(8, affine=False) if norm == "batch" else nn.InstanceNorm2d(8)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        z = self.start(noise)[:, :, None, None].expand(-1, -1, *condition.shape[-2:])
        return torch.tanh(self.last(F.relu(self.norm(self.first(torch.cat([condition, z], 1))))))


class ToyConfig(RunConfig):
    method: Literal["toy"] = "toy"
    interval: int = 1
    features: str | None = None
    norm: Literal["batch", "instance"] = "batch"


@register
class ToyMethod(Method):
    name = "toy"
    Config = ToyConfig
    lr = 2e-4

    def __init__(self, config: ToyConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        discriminator = nn.Sequential(
            spectral_norm(nn.Conv2d(17, 8, 3, padding=1, bias=False)),
            nn.InstanceNorm2d(8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 1, 1),
        )
        self.networks = {"generator": self.build_generator(config, label_space), "discriminator": discriminator}
        self.nan_at: int | None = None
        self.calls = 0
        self.seen = torch.zeros(4)  # further state: how bright the last images were

    @classmethod
    def build_sampling(cls, config: ToyConfig, label_space: LabelSpace) -> Sampling:
        return Sampling(Condition(label_space), noise_channels=4)

    @classmethod
    def build_generator(cls, config: ToyConfig, label_space: LabelSpace) -> nn.Module:
        return ToyGenerator(config.norm)

    @property
    def optimizers(self) -> dict[str, OptimizerSpec]:
        schedule = linear_decay(0.5)
        return {name: OptimizerSpec((name,), self.lr, (0.0, 0.9), schedule=schedule) for name in self.networks}

    @property
    def phases(self) -> list[Phase]:
        return [
            Phase("generator", self.generator_backward, ("generator",)),
            Phase("discriminator", self.discriminator_backward, ("discriminator",), every(self.config.interval)),
        ]

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        self.calls += 1
        condition, discriminator = self.sampling.condition(batch), self.networks["discriminator"]
        with context.autocast():
            image = self.networks["generator"](condition, noise)
            # Random numbers by sample and by step, as of augmentation.
            image = image + 0.1 * context.random.normal(len(batch), 3, 1, 1) * context.random.shared_uniform(1)
            discriminator.requires_grad_(False)
            judged = discriminator(torch.cat([condition, image], 1))
            discriminator.requires_grad_(True)
            losses = {"adversarial": -judged.float().mean(), "pixel": 10 * F.l1_loss(image.float(), batch.image)}
        if self.calls == self.nan_at:
            losses["pixel"] = losses["pixel"] * float("nan")
        context.scale(sum(losses.values())).backward()
        context.cache["images"] = condition, image.detach(), batch.image
        self.seen = torch.cat([self.seen[1:], image.detach().float().mean().cpu()[None]])
        return {name: value.detach() for name, value in losses.items()}

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        condition, fake, real = context.cache["images"]
        with context.autocast():
            judged = self.networks["discriminator"](
                torch.cat([torch.cat([condition, fake], 1), torch.cat([condition, real], 1)])
            ).float()
        no, yes = judged.chunk(2)
        losses = {"fake": F.relu(1 + no).mean(), "real": F.relu(1 - yes).mean()}
        context.scale(sum(losses.values())).backward()
        return {name: value.detach() for name, value in losses.items()}

    def extra_state(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        self.seen = state["seen"]

    def feature_networks(self) -> dict[str, str]:
        return {} if self.config.features is None else {self.config.features: "backbone.discriminator"}

    @property
    def score_names(self) -> tuple[str, ...]:
        return ("l1",)

    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        return {"l1": F.l1_loss(generated, batch.image)}


DEFAULTS: dict[str, Any] = {
    "data": {"format": "scenes", "size": [SIDE, SIDE]},
    "train": {"batch_size": 4, "steps": 12},
    "checkpoint": {"every": 5},
    "monitor": {"log_every": 1, "sample_every": 6, "samples": 2, "tensorboard": False},
}


def toy_config(**changes: Any) -> ToyConfig:
    """Return a small configuration; a change is named `train__steps=3`."""
    values = copy.deepcopy(DEFAULTS)
    for key, value in changes.items():
        place = values
        *groups, leaf = key.split("__")
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = value
    return ToyConfig.model_validate(values)


PATCHED = (
    *((loop, "build_dataset"), (monitor, "build_dataset"), (monitor, "plot_losses")),
    (evaluation, "build_dataset"),
)
"""What `use_toys` replaces, for tests to put back."""


def use_toys(data: ToyData | None = None, *, plots: bool = False) -> None:
    """Let the loop train the toy; the loss plot, which takes longer than the training, only where asked for."""
    data = data or ToyData()
    loop.build_dataset = lambda *arguments, **options: data
    monitor.build_dataset = evaluation.build_dataset = lambda *arguments, **options: ToyData(5)
    if not plots:
        monitor.plot_losses = lambda *arguments: None


def weights(run: Path, step: int) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint, by file and name."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file}:{name}": tensor
        for file in ("model", "training")
        for name, tensor in load_file(folder / f"{file}.safetensors").items()
    }


def lines(run: Path, key: str = "losses") -> list[dict[str, Any]]:
    """Return the lines of a log that hold a key, without their times."""
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "waiting")} for line in found if key in line]


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Compare weights and logged losses of two runs, bit for bit."""
    mine, theirs = weights(one, step), weights(other, step)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert lines(one) == lines(other)


def stop_at(step: int, number: int = signal.SIGTERM) -> Validator:
    """A validator that sends this process a signal."""

    def validator(state: Any, run: Path, now: int) -> dict[str, float]:
        if now == step:
            os.kill(os.getpid(), number)
        return {}

    return validator


def jobs(size: int, **job: Any) -> list[dict[str, Any]]:
    """Return the jobs of a server's processes that make one training together."""
    if size == 1:
        return [job]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **job.pop("env", {})}
    return [{**job, "env": {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}} for rank in range(size)]


def _die_at(call: int) -> None:
    """Kill this process, with no chance to tidy up, before the n-th time that it forces or removes files."""
    calls = itertools.count(1)

    def deadly(function: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    os.fsync, shutil.rmtree = deadly(os.fsync), deadly(shutil.rmtree)


def _work(job: dict[str, Any]) -> int:
    os.environ.update(job.get("env", {}))
    _die_at(job.get("die_at", 0))
    global SIDE  # noqa: PLW0603 - this process makes one run
    SIDE = job.get("side", SIDE)
    if "data__root" not in job.get("config", {}):
        use_toys(ToyData(delay=job.get("delay", 0.0)))
    try:
        out, resume = Path(job["out"]), job.get("resume", False)
        resume = (out / "config.yaml").exists() if resume == "auto" else resume
        result = loop.train(toy_config(**job.get("config", {})), out, resume=resume)
    except Lab2PixError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 70
    return result.exit_code


def _serve() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        if line == "\n":
            break
        jobs = json.loads(line)
        pids = []
        for job in jobs:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                status = _work(job)
                sys.stderr.flush()
                os._exit(status)
            pids.append(pid)
        print(json.dumps(pids), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    sys.exit(_work(json.loads(sys.argv[1]))) if sys.argv[1:] else _serve()
