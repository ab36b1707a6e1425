"""Callbacks of a training session: their base class, and loggers to TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab2pix.config.schema import RunConfig
from lab2pix.training.run_folder import flatten
from lab2pix.utils.extras import import_extra
from lab2pix.utils.files import write_atomically

PROJECT = "lab2pix"
"""Experiment of MLflow, and project of Weights & Biases."""


class Callback:
    """Hooks of a training session, which run in process 0; override those of interest.

    The methods do nothing by themselves. An error in one ends the training.
    """

    def on_start(self, run: Path, config: RunConfig, step: int) -> None:
        """Begin a session.

        Args:
            run: the run folder.
            config: its settings.
            step: steps made before; 0 for a new run.
        """

    def on_log(self, step: int, values: Mapping[str, float]) -> None:
        """Receive losses (`PHASE/TERM`), learning rates (`lr/PHASE`) and `waiting`, at each logged step."""

    def on_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Receive validation or evaluation scores."""

    def on_samples(self, step: int, sheet: Path) -> None:
        """Receive the file of a sample sheet."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """Receive the folder of a new checkpoint."""

    def on_end(self, step: int) -> None:
        """End the session, also after an error; `step` is the last one."""


class Logger(Callback):
    """A callback that logs scores as it logs losses, by the names `scores/NAME`."""

    def on_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Log the scores."""
        self.on_log(step, {f"scores/{name}": value for name, value in scores.items()})


class TensorBoard(Logger):
    """Writes TensorBoard files to `RUN/tensorboard`."""

    def on_start(self, run: Path, config: RunConfig, step: int) -> None:
        """Open the files; values of later steps, which are repeated, are replaced."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def on_log(self, step: int, values: Mapping[str, float]) -> None:
        """Write each value as a chart."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def on_end(self, step: int) -> None:
        """Close the files."""
        self._writer.close()


class MLflow(Logger):
    """Logs settings, losses, scores and sample sheets to an MLflow run, which a resumed run continues.

    Args:
        uri: tracking URI, such as `http://server:5000`, or a folder as `file:FOLDER`.

    Raises:
        ConfigError: the extra `mlflow` is not installed.
    """

    def __init__(self, uri: str) -> None:
        if uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for this
        self._mlflow = import_extra("mlflow", "mlflow", "monitor.mlflow")
        self._client: Any = self._mlflow.MlflowClient(uri)
        self._id = ""

    def on_start(self, run: Path, config: RunConfig, step: int) -> None:
        """Create the run, or continue the one whose id is in the run folder."""
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = self._client.create_experiment(PROJECT) if known is None else known.experiment_id
        file = run / "mlflow-run-id"
        if not file.exists():
            self._id = self._client.create_run(experiment, run_name=config.name).info.run_id
            settings = flatten(config.model_dump(mode="json"))
            entries = [self._mlflow.entities.Param(name, str(value)[:500]) for name, value in settings]
            for start in range(0, len(entries), 100):  # the most that a server takes at once
                self._client.log_batch(self._id, params=entries[start : start + 100])
            write_atomically(file, self._id)
        self._id = file.read_text(encoding="utf-8")
        self._client.update_run(self._id, status="RUNNING")

    def on_log(self, step: int, values: Mapping[str, float]) -> None:
        """Log each value as a metric."""
        now, metric = int(time.time() * 1000), self._mlflow.entities.Metric
        self._client.log_batch(self._id, metrics=[metric(name, value, now, step) for name, value in values.items()])

    def on_samples(self, step: int, sheet: Path) -> None:
        """Log the sheet as an artifact."""
        self._client.log_artifact(self._id, str(sheet), "samples")

    def on_end(self, step: int) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


class WandB(Logger):
    """Logs settings, losses, scores and sample sheets to a run of Weights & Biases, which a resumed run continues.

    Args:
        mode: `offline` writes to `RUN/wandb`, for `wandb sync`; `online` also sends.

    Raises:
        ConfigError: the extra `wandb` is not installed.
    """

    def __init__(self, mode: str) -> None:
        self._wandb, self._mode = import_extra("wandb", "wandb", "monitor.wandb"), mode

    def on_start(self, run: Path, config: RunConfig, step: int) -> None:
        """Create the run, or continue the one whose id is in the run folder."""
        file = run / "wandb-run-id"
        if not file.exists():
            write_atomically(file, uuid.uuid4().hex[:8])
        self._run: Any = self._wandb.init(
            project=PROJECT,
            name=config.name,
            id=file.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(run),
            mode=self._mode,
            config=config.model_dump(mode="json"),
            settings=self._wandb.Settings(silent=True),
        )
        # Its own step counter cannot repeat steps after a crash.
        self._run.define_metric("*", step_metric="step")

    def on_log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, with their step."""
        self._run.log({"step": step, **values})

    def on_samples(self, step: int, sheet: Path) -> None:
        """Log the sheet as an image."""
        self._run.log({"step": step, "samples": self._wandb.Image(str(sheet))})

    def on_end(self, step: int) -> None:
        """Close the run."""
        self._run.finish()


def configured_callbacks(config: RunConfig) -> list[Callback]:
    """Return the loggers that the settings ask for; TensorBoard only if it is installed.

    Raises:
        ConfigError: an extra is missing.
    """
    found: list[Callback] = []
    if config.monitor.tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401

            found.append(TensorBoard())
        except ImportError:
            pass
    if config.monitor.mlflow is not None:
        found.append(MLflow(config.monitor.mlflow))
    if config.monitor.wandb is not None:
        found.append(WandB(config.monitor.wandb))
    return found
