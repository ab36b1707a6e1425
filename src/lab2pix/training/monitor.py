"""Monitoring of a run: terminal, log, callbacks, sample sheets, loss plot, scores and HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data.build import build_dataset, open_held_out_photos
from lab2pix.data.samples import collate
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.evaluation.held_out import style_origin, with_styles
from lab2pix.evaluation.metrics.image import checkerboard_ratio, gradients_by_parity
from lab2pix.methods import Losses, StepContext, generate
from lab2pix.reporting.html import number
from lab2pix.training.callbacks import Callback
from lab2pix.training.evaluation import Evaluation, evaluation_names, is_better
from lab2pix.training.figures import plot_losses, sample_grid
from lab2pix.training.log import RunLog
from lab2pix.training.page import write_page
from lab2pix.training.progress import ContentionMeter, DataWaitMeter, Display, contention_hint, data_loading_hint
from lab2pix.training.state import Best, TrainingState
from lab2pix.utils.distributed import DistributedContext
from lab2pix.utils.files import write_png
from lab2pix.utils.seeding import stable_seed

Validator = Callable[[TrainingState, Path, int], dict[str, float]]
"""Returns scores of a state (with `sampling_generator` in evaluation mode), given the run folder and the step."""

_SCORED = 64  # held-out images for validation scores
_SCORED_AT_ONCE = 8
_WON = 0.1  # sum of the real and fake terms; 1 to 2 where discriminators cannot tell images from photos
_WON_FOR = 1000  # steps
_WON_HINT = (
    f"the discriminators have won: their losses on real and fake images have averaged less than {_WON} in total for "
    f"{_WON_FOR:,} steps, so the generator learns little from them; start again with a lower learning rate of the "
    "discriminators, narrower ones, or regularization (of lab2pix-v2: loss.r1, augment.discriminator)"
)


class DiscriminatorWatch:
    """Watches the loss terms `real` and `fake` for discriminators that have won."""

    def __init__(self) -> None:
        self._mean: float | None = None
        self._since: int | None = None
        self._reported = False

    def has_won(self, step: int, losses: Mapping[str, Mapping[str, float]]) -> bool:
        """Return true once: when the running mean of both terms has been near 0 for long enough.

        Args:
            step: a logged step.
            losses: its losses by phase; those of a Wasserstein loss, which can be negative, never count.
        """
        terms = next((terms for terms in losses.values() if {"real", "fake"} <= terms.keys()), None)
        if terms is None:
            return False
        total = terms["real"] + terms["fake"]
        self._mean = total if self._mean is None else 0.9 * self._mean + 0.1 * total
        if min(terms["real"], terms["fake"]) < 0 or self._mean >= _WON:
            self._since = None
        elif self._since is None:
            self._since = step
        won = self._since is not None and step - self._since >= _WON_FOR and not self._reported
        self._reported |= won
        return won


class Monitor:
    """Reports the progress and scores of a run; silent in all processes but the first.

    `total` counts the steps of the complete run, `samples` the training samples.
    """

    def __init__(
        self,
        run: Path,
        state: TrainingState,
        dist: DistributedContext,
        context: StepContext,
        *,
        total: int,
        samples: int,
        validators: Sequence[Validator] = (),
        callbacks: Sequence[Callback] = (),
        evaluation: Evaluation | None = None,
    ) -> None:
        self.run = run
        self.state = state
        self.dist = dist
        self.context = context
        self.total = total
        self.samples = samples
        self.validators = validators
        self.callbacks = callbacks if dist.main else ()
        self.evaluation = evaluation
        self.config: RunConfig = state.method.config
        self.scores: dict[str, float] = {}
        self.notes: list[str] = []
        self.data_wait = DataWaitMeter()
        # Workers and other processes of the run would count as other programs.
        alone = dist.size == 1 and dist.device.type == "cpu" and not self.config.data.workers
        self.contention = ContentionMeter(torch.get_num_threads() if alone else 1)
        self.discriminators = DiscriminatorWatch()
        self.display = Display(total, state.step, active=dist.main)
        self.file = run / "log.jsonl"
        self.log = RunLog(self.file, state.step) if dist.main else None
        self._started: list[Callback] = []
        self._held_out: Any = None
        self._photos: Any = None

    def __enter__(self) -> Monitor:
        """Start the callbacks, and return the monitor."""
        for callback in self.callbacks:
            callback.on_start(self.run, self.config, self.state.step)
            self._started.append(callback)
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the display and the log, and end the callbacks that have started."""
        self.display.close()
        if self.log is not None:
            self.log.close()
        for callback in self._started:
            callback.on_end(self.state.step)

    def note(self, text: str) -> None:
        """Show a message on the terminal, in the log and on the page."""
        self.notes.append(text)
        self.display.note(text)
        if self.log is not None:
            self.log.write({"step": self.state.step, "note": text})

    def average(self, losses: Mapping[str, Losses]) -> dict[str, dict[str, float]]:
        """Return the losses as floats, averaged over all processes; collective over all processes."""
        found = {}
        for phase, terms in losses.items():
            values = self.dist.mean(torch.stack([value.detach().float() for value in terms.values()])).tolist()
            found[phase] = dict(zip(terms, values, strict=True))
        return found

    def step(self, losses: Mapping[str, Losses]) -> None:
        """Record a finished step; collective over all processes."""
        step = self.state.step
        if step in (1, self.total) or step % self.config.monitor.log_every == 0:
            values = self.average(losses)
            # The maximum over processes: the others wait for the slowest one, but count that as work.
            waiting = float(self.dist.maximum(torch.tensor(self.data_wait.share_since_last(), device=self.dist.device)))
            self.display.losses(values, waiting)
            if self.log is not None:
                self._write(values, waiting)
            if self.discriminators.has_won(step, values):
                self.note(_WON_HINT)
        # Scenes are rendered in the first epoch and cached.
        waiting_share = self.data_wait.data_bound(excused=self.config.data.format == "scenes" and not self._epoch())
        if waiting_share is not None:
            self.note(data_loading_hint(waiting_share, self.config.data.workers))
        left = self.contention.contended()
        if left is not None:
            self.note(contention_hint(left, torch.get_num_threads()))
        self.display.update(step)

    def _epoch(self) -> int:
        return (self.state.step * self.config.train.batch_size) // self.samples

    def _write(self, losses: Mapping[str, Mapping[str, float]], waiting: float) -> None:
        assert self.log is not None
        state = self.state
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in state.optimizers.items()}
        line = {"step": state.step, "epoch": self._epoch(), "losses": losses, "lr": rates}
        self.log.write(line | {"seconds": round(state.seconds, 3), "waiting": round(waiting, 4)})
        values = {f"{phase}/{term}": value for phase, terms in losses.items() for term, value in terms.items()}
        values |= {f"lr/{name}": rate for name, rate in rates.items()} | {"waiting": waiting}
        for callback in self.callbacks:
            callback.on_log(state.step, values)

    def maybe_evaluate(self, *, ends: bool) -> bool:
        """Write samples and compute scores if they are due after a step; collective over all processes.

        Args:
            ends: whether this is the last step of the session, when everything is due.

        Returns:
            Whether the score named by `checkpoint.best` is the best so far.

        Raises:
            ConfigError: `checkpoint.best` names an unknown score.
            DataError: unreadable held-out file.
        """
        every, step = self.config.train.evaluate_every, self.state.step
        sample_due = ends or step % self.config.monitor.sample_every == 0
        evaluation_due = every is not None and (ends or step % every == 0)
        improved = self.dist.run_on_main(self.log_samples) if sample_due else False
        if evaluation_due:
            improved = self.evaluate() or improved
        if sample_due or evaluation_due:
            self.dist.run_on_main(self._draw_page)
        return improved

    @torch.no_grad()
    def log_samples(self) -> bool:
        """Write a sample sheet and compute validation scores, on process 0 only.

        Returns:
            Whether the score named by `checkpoint.best` is among them and the best so far.

        Raises:
            ConfigError: `checkpoint.best` names an unknown score.
        """
        with _evaluation_mode(self.state):
            self._write_sheet()
            scores = self._score()
            for validator in self.validators:
                scores.update(validator(self.state, self.run, self.state.step))
        name = self.config.checkpoint.best
        if name is not None and name not in (*scores, *evaluation_names(self.config)):
            hint = did_you_mean(name, scores) if scores else "; this run takes no scores (set data.val_split)"
            raise ConfigError(f"checkpoint.best names an unknown score '{name}'{hint}")
        return self._log_scores("scores", scores)

    def evaluate(self) -> bool:
        """Compute and log the evaluation scores; collective over all processes.

        Returns:
            Whether the score named by `checkpoint.best` is among them and the best so far.

        Raises:
            DataError: unreadable held-out file.
        """
        assert self.evaluation is not None
        devices = [self.dist.device] if self.dist.device.type == "cuda" else []
        with _evaluation_mode(self.state), torch.random.fork_rng(devices):
            scores = self.evaluation.scores(self.state)
        if scores:
            found = ", ".join(f"{name} {number(value)}" for name, value in scores.items())
            self.display.note(f"scores at step {self.state.step}: {found}")
            for text in self.evaluation.notes:
                if text not in self.notes:
                    self.note(text)
        return self.dist.run_on_main(lambda: self._log_scores("evaluation", scores))

    def _log_scores(self, kind: str, scores: Mapping[str, float]) -> bool:
        """Log scores, and return whether the score named by `checkpoint.best` improved."""
        self.scores.update(scores)
        if scores and self.log is not None:
            self.log.write({"step": self.state.step, kind: scores})
            for callback in self.callbacks:
                callback.on_scores(self.state.step, scores)
        name = self.config.checkpoint.best
        if name is None or name not in scores or not is_better(name, scores[name], self.state.best):
            return False
        self.state.best = Best(name, scores[name], self.state.step)
        return True

    def _draw_page(self) -> None:
        plot_losses(self.file, self.run / "losses.png")
        write_page(self.run, self.state, total=self.total, notes=self.notes, waiting=self.data_wait.share)

    def _write_sheet(self) -> None:
        count = self.config.monitor.samples
        batch, indices = next(self._batches(count, count))
        images = self._generate(batch, indices, "sheet")
        if not self.state.method.paired and self.config.data.val_split is None:
            batch = replace(batch, image=None)  # unrelated photos, which would be taken for the ground truth
        sheet = sample_grid(batch, images, self.state.method)
        file = self.run / "samples" / f"step-{self.state.step:08d}.png"
        write_png(file, sheet)
        for callback in self.callbacks:
            callback.on_samples(self.state.step, file)

    def _score(self) -> dict[str, float]:
        if self.config.data.val_split is None:
            return {}
        sums: dict[str, float] = {}
        gradients = torch.zeros(2, 2, dtype=torch.float64)
        seen = 0
        for place, (batch, indices) in enumerate(self._batches(_SCORED, _SCORED_AT_ONCE)):
            generated = self._generate(batch, indices, "score", place)
            gradients += gradients_by_parity(generated)
            with self.context.autocast():
                scores = self.state.method.validation_scores(batch, generated)
            for name, score in scores.items():
                sums[name] = sums.get(name, 0.0) + float(score) * len(batch)
            seen += len(batch)
        evenness = {"checkerboard": checkerboard_ratio(gradients)} if self.evaluation is None else {}
        return {name: total / seen for name, total in sums.items()} | evenness

    def _batches(self, count: int, at_once: int) -> Iterator[tuple[Batch, list[int]]]:
        """Yield batches of samples with their indices, evenly spaced over the held-out set or else the training set."""
        if self._held_out is None:
            data, method = self.config.data, self.state.method
            split: Literal["train", "val"] = "train" if data.val_split is None else "val"
            self._held_out = build_dataset(data, split, method.label_space, self.config.seed, paired=method.paired)
            if method.sampling.style == "required" and split == "val":
                self._photos = open_held_out_photos(data, method.label_space, self.config.seed)
        length = len(self._held_out)
        count = min(count, length)
        chosen = [index * length // count for index in range(count)]
        for start in range(0, count, at_once):
            some = chosen[start : start + at_once]
            yield collate([self._held_out[(0, index)] for index in some]).to(self.dist.device), some

    def _generate(self, batch: Batch, indices: Sequence[int], *purpose: object) -> Tensor:
        """Generate the images of a batch, with noise that is fixed for the run."""
        method = self.state.method
        random = torch.Generator().manual_seed(stable_seed(*purpose, self.config.seed))
        shape = method.sampling.noise_shape(self.config.data.size)
        noise = None if shape is None else torch.randn(len(batch), *shape, generator=random).to(self.dist.device)
        given = with_styles(batch, indices, style_origin(method.sampling, "noise"), self._photos)
        with self.context.autocast():
            return generate(self.state.sampling_generator, method.sampling, given, noise).float()


@contextmanager
def _evaluation_mode(state: TrainingState) -> Iterator[None]:
    """Set the sampling generator to evaluation mode, and restore the modes of all networks afterwards."""
    modes = [(module, module.training) for network in state.method.networks.values() for module in network.modules()]
    state.sampling_generator.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
