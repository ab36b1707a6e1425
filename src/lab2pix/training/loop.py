"""Training loop: builds the state, runs the steps, and writes checkpoints."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data.balance import repeat_factors
from lab2pix.data.build import AnyDataset, build_dataset
from lab2pix.data.samples import collate
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Losses, Progress, get_method
from lab2pix.training.callbacks import Callback, configured_callbacks
from lab2pix.training.checkpoint import (
    clean_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)
from lab2pix.training.compile import check_compiler, compile_networks, eager_mode
from lab2pix.training.evaluation import biased_feature_warnings, build_evaluation, check_best
from lab2pix.training.init_from import init_from
from lab2pix.training.interrupts import TIMEOUT, InterruptHandler, translate_errors
from lab2pix.training.loader import read_batches
from lab2pix.training.monitor import Monitor, Validator
from lab2pix.training.run_folder import lock_run, record_session, recorded_threads, resolve_run, start_run
from lab2pix.training.sampler import SampleRandom, StreamSampler, draw_noise
from lab2pix.training.schedule import total_steps
from lab2pix.training.state import TrainingState, build_training, set_learning_rates
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils.distributed import DistributedContext, init_distributed, was_restarted
from lab2pix.utils.hardware import computes_bfloat16
from lab2pix.utils.seeding import stable_seed
from lab2pix.utils.text import plural
from lab2pix.utils.threads import available_processors, limit_threads


@dataclass(frozen=True)
class RunResult:
    """Result of a training session.

    Attributes:
        path: the run folder.
        step: optimizer steps made, over all sessions.
        total_steps: steps of the complete run.
        losses: loss terms of each phase at the last step; empty if no step was made.
        scores: latest validation and evaluation scores; on process 0 only.
        seconds: training time, over all sessions.
        signal: number of the signal that ended the session early, or 0.
    """

    path: Path
    step: int
    total_steps: int
    losses: dict[str, dict[str, float]]
    scores: dict[str, float]
    seconds: float
    signal: int = 0

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the session; a checkpoint was written."""
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """Exit status: 0, or 128 + signal number (130 after Ctrl-C, 143 after SIGTERM)."""
        return 128 + self.signal if self.signal else 0


def train(
    config: RunConfig | None,
    out: Path | str,
    *,
    resume: bool = False,
    device: str | None = None,
    validators: Sequence[Validator] = (),
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train a method, in a single process or distributed under torchrun.

    Args:
        config: configuration of the run; None with `resume`: the stored one.
        out: run folder; new or empty, or with `resume` an existing run.
        resume: continue from the latest checkpoint, with the same results as an uninterrupted run.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; None: the best one available.
        validators: functions of state, run folder and step that return more validation scores.
        callbacks: hooks of the session, in process 0, besides the loggers of the settings.

    Returns:
        The result. Ctrl-C, SIGTERM and `train.max_minutes` end training early, with a checkpoint.

    Raises:
        CheckpointError: nothing to resume, or a checkpoint that does not match the run.
        ConfigError: settings conflict with each other, the device or the run to resume.
        DataError: unreadable training or held-out file.
        OutputError: the run folder cannot be written or holds other files.
        TrainingError: non-finite loss, out of memory or full disk; the last checkpoint is kept.
    """
    run = Path(out)
    with ExitStack() as stack:
        dist = stack.enter_context(init_distributed(device))
        resume = dist.run_on_main(lambda: resume or (was_restarted() and (run / "config.yaml").exists()))
        config = dist.run_on_main(lambda: resolve_run(config, run, resume=resume))
        stop = InterruptHandler(config.train.max_minutes)
        stack.enter_context(translate_errors(config, dist.size))

        _check_share(config, dist)
        hooks = [*callbacks, *configured_callbacks(config)] if dist.main else []
        # The other processes of a run would count as other programs, so these take what they have.
        earlier = recorded_threads(run) if dist.size == 1 else torch.get_num_threads()
        most = stack.enter_context(limit_threads(config.train.threads, earlier))
        method = get_method(config.method)
        if config.train.compile:
            check_compiler(dist.device)
        label_space = LabelSpace.load(config.data.label_space)
        dataset = build_dataset(config.data, "train", label_space, config.seed, paired=method.paired)
        samples, total = len(dataset), total_steps(config.train, len(dataset))
        threshold = config.data.repeat_threshold
        weights = repeat_factors(dataset, label_space, threshold) if threshold else None
        sampler = _sampler(config, dist, samples, total, weights)
        state = build_training(config, label_space, dist)
        inherited: list[str] = []
        if config.train.init_from is not None and latest_checkpoint(run) is None:
            inherited = init_from(state, config.train.init_from)
        state.refresh_batches = lambda: _refresh_batches(dataset, state, sampler.part_size, dist.device)
        check_best(state.method, more=bool(validators))
        dist.run_on_main(lambda: _check_held_out(config, label_space))
        evaluation = build_evaluation(state.method, dist)

        if not resume:
            dist.run_on_main(lambda: start_run(config, run))
        dist.run_on_main(lambda: stack.enter_context(lock_run(run)))
        checkpoint = dist.run_on_main(lambda: _find_checkpoint(run))
        if checkpoint is not None:
            load_checkpoint(checkpoint, state, dist.rank)
        context = build_step_context(state, dist.device)
        if config.train.compile:
            compile_networks(state.method)
        dist.broadcast_weights(state.sampling_networks.values())
        dist.broadcast_weights(state.method.networks.values())
        notes = dist.run_on_main(lambda: _record(run, state, dist, dataset))

        sampler.steps = range(state.step, total)
        batches = stack.enter_context(closing(_batches(dataset, sampler, config, dist)))
        monitor = Monitor(
            run,
            state,
            dist,
            context,
            total=total,
            samples=samples,
            validators=validators,
            callbacks=hooks,
            evaluation=evaluation,
        )
        stack.enter_context(monitor)
        biased = biased_feature_warnings(state.method) if evaluation is not None else ()
        for note in [*_machine_notes(config, dist, most), *notes, *inherited, *biased]:
            monitor.note(note)
        stack.enter_context(stop)
        return _run_steps(batches, sampler, monitor, stop)


def _run_steps(
    batches: Iterator[list[Batch]], sampler: StreamSampler, monitor: Monitor, stop: InterruptHandler
) -> RunResult:
    """Run the remaining steps, until the end of the run, a signal or the time limit."""
    run, state, dist, total = monitor.run, monitor.state, monitor.dist, monitor.total
    config = state.method.config
    losses: dict[str, Losses] = {}
    began = time.monotonic() - state.seconds
    reason = 0
    if state.step >= total:
        monitor.display.note(f"the run in {run} is complete: all of its {total} steps are made")
    while state.step < total and not reason:
        progress = Progress(state.step, total, monitor.samples, config.train.batch_size)
        set_learning_rates(state, progress)
        fetch_start = time.monotonic()
        batch = next(batches)
        fetch_end = time.monotonic()
        # Dropout draws from the global generators; seeded by step, a repeated step is identical.
        torch.manual_seed(stable_seed("step", config.seed, state.step, dist.rank))
        positions = sampler.positions(state.step)
        random = SampleRandom(config.seed, state.step, positions, dist.device)
        context = replace(monitor.context, progress=progress, random=random)
        losses = training_step(state, _micro_batches(batch, positions, state, dist), context, dist)
        now = time.monotonic()
        state.seconds = now - began
        monitor.data_wait.count(fetch_end - fetch_start, now - fetch_end)

        reason = dist.all_reduce_max(stop.reason)
        interrupted = reason not in (0, TIMEOUT)
        last = state.step == total or reason != 0
        monitor.step(losses)
        with eager_mode(config.train.compile):
            improved = monitor.maybe_evaluate(ends=last and not interrupted)
        if state.step % config.checkpoint.every == 0 or last or improved:
            _save(run, state, monitor)

    if reason:
        why = "train.max_minutes have passed" if reason == TIMEOUT else signal.Signals(reason).name
        monitor.note(f"stopped at step {state.step} of {total} ({why}); the state is saved, go on with --resume")
    return RunResult(
        path=run,
        step=state.step,
        total_steps=total,
        losses=monitor.average(losses),
        scores=monitor.scores,
        seconds=state.seconds,
        signal=reason if reason != TIMEOUT else 0,
    )


def _sampler(
    config: RunConfig, dist: DistributedContext, samples: int, total: int, weights: Tensor | None
) -> StreamSampler:
    return StreamSampler(
        samples,
        seed=config.seed,
        batch_size=config.train.batch_size,
        steps=range(total),
        accumulate=config.train.accumulate,
        rank=dist.rank,
        world_size=dist.size,
        weights=weights,
    )


def _batches(
    dataset: AnyDataset, sampler: StreamSampler, config: RunConfig, dist: DistributedContext
) -> Generator[list[Batch], None, None]:
    return read_batches(dataset, sampler, config.data.workers, pin=dist.device.type == "cuda")


def _micro_batches(
    batches: Sequence[Batch], positions: range, state: TrainingState, dist: DistributedContext
) -> list[tuple[Batch, Tensor | None]]:
    """Return the micro-batches of this process with their noise, on the device."""
    method = state.method
    size = method.config.padded_size
    batches = [batch.to(dist.device).pad(size) for batch in batches]
    shape = method.sampling.noise_shape(size)
    if shape is None:
        return [(batch, None) for batch in batches]
    sizes = [len(batch) for batch in batches]
    noise = draw_noise(method.config.seed, positions, shape).to(dist.device)
    return [(batch, z) for batch, z in zip(batches, torch.split(noise, sizes), strict=True)]


def _refresh_batches(
    dataset: AnyDataset, state: TrainingState, samples: int, device: torch.device
) -> Iterator[tuple[Batch, Tensor | None]]:
    """Yield a fixed set of training batches with noise, for a method that re-estimates batch norm statistics."""
    method = state.method
    shape = method.sampling.noise_shape(method.config.padded_size)
    for number in range(method.refresh_batches):
        positions = range(number * samples, (number + 1) * samples)
        batch = collate([dataset[(0, position % len(dataset))] for position in positions])
        batch = batch.to(device).pad(method.config.padded_size)
        noise = None if shape is None else draw_noise(method.config.seed, positions, shape).to(device)
        yield batch, noise


def _check_share(config: RunConfig, dist: DistributedContext) -> None:
    """Check the method's rules on samples per forward pass, given the number of processes."""
    share = config.train.batch_size // (config.train.accumulate * dist.size)
    advice = f"set train.batch_size={2 * config.train.accumulate * dist.size} or more, or run fewer processes"
    config.check_samples_per_pass(share, advice)


def _machine_notes(config: RunConfig, dist: DistributedContext, most: int) -> list[str]:
    """Return what makes training slow on this machine, where PyTorch would take `most` threads."""
    notes, processors, threads = [], available_processors(), torch.get_num_threads()
    if config.train.threads is None and threads < most:
        notes.append(
            f"this run computes with {threads} of {plural(most, 'thread')}, as many as there were free processors when "
            f"it began; train.threads={most} takes all"
        )
    if config.train.precision == "bf16" and dist.device.type == "cpu" and not computes_bfloat16():
        notes.append("this processor emulates bfloat16, which is much slower than train.precision=fp32")
    if config.data.workers > processors:
        notes.append(f"data.workers={config.data.workers} are more than the {processors} processors here; lower it")
    return notes


def _check_held_out(config: RunConfig, label_space: LabelSpace) -> None:
    """Open the held-out data once, to fail before the first step."""
    if config.data.val_split is not None:
        build_dataset(config.data, "val", label_space, config.seed, paired=get_method(config.method).paired)


def _find_checkpoint(run: Path) -> Path | None:
    clean_checkpoints(run)
    return latest_checkpoint(run)


def _record(run: Path, state: TrainingState, dist: DistributedContext, dataset: AnyDataset) -> list[str]:
    config, samples = state.method.config, len(dataset)
    return record_session(run, config, dist, step=state.step, samples=samples, file_hash=dataset.file_hash())


def _save(run: Path, state: TrainingState, monitor: Monitor) -> None:
    """Write a checkpoint; collective over all processes."""
    extra = monitor.dist.gather(state.method.extra_state())

    def write() -> None:
        if monitor.log is not None:
            monitor.log.sync()
        folder = write_checkpoint(run, state, extra)
        prune_checkpoints(run, state.method.config.checkpoint.keep, state.best)
        for callback in monitor.callbacks:
            callback.on_checkpoint(state.step, folder)

    monitor.dist.run_on_main(write)
