from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lab2pix.errors import ConfigError
from lab2pix.training import callbacks as module
from lab2pix.training.callbacks import Callback
from lab2pix.training.loop import train
from lab2pix.utils.logs import LOGGER, shows_progress
from tests.helpers.toy import assert_same_run, lines, stop_at, toy_config

pytestmark = pytest.mark.usefixtures("toys")


class Recorder(Callback):
    """Notes all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_start(self, run: Path, config: Any, step: int) -> None:
        self.calls.append(("start", config.name, step))

    def on_log(self, step: int, values: Any) -> None:
        self.calls.append(("log", step, dict(values)))

    def on_scores(self, step: int, scores: Any) -> None:
        self.calls.append(("scores", step, dict(scores)))

    def on_samples(self, step: int, sheet: Path) -> None:
        assert sheet.is_file()
        self.calls.append(("samples", step))

    def on_checkpoint(self, step: int, folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        self.calls.append(("checkpoint", step))

    def on_end(self, step: int) -> None:
        self.calls.append(("end", step))


class BrokenError(Exception):
    """An error of a callback."""


class Broken(Callback):
    """Fails at the first step."""

    def on_log(self, step: int, values: Any) -> None:
        raise BrokenError


def test_callbacks_see_what_the_log_has(tmp_path: Path) -> None:
    recorder = Recorder()
    train(toy_config(), tmp_path / "run", callbacks=[recorder])
    calls = recorder.calls
    assert calls[0] == ("start", toy_config().name, 0)
    assert calls[-1] == ("end", 12)
    logged = {step: values for kind, step, values in (call for call in calls if call[0] == "log")}
    assert sorted(logged) == list(range(1, 13))
    for line in lines(tmp_path / "run"):
        if "losses" in line:
            for term, value in line["losses"]["generator"].items():
                assert logged[line["step"]][f"generator/{term}"] == value
            assert logged[line["step"]]["lr/generator"] == line["lr"]["generator"]
    assert [call[1] for call in calls if call[0] == "samples"] == [6, 12]
    assert [call[1] for call in calls if call[0] == "checkpoint"][-1] == 12


def test_callbacks_change_nothing_and_a_resumed_run_starts_them_at_its_step(tmp_path: Path) -> None:
    train(toy_config(), tmp_path / "plain")
    recorder = Recorder()
    train(toy_config(), tmp_path / "run", validators=[stop_at(6)], callbacks=[recorder])
    train(toy_config(), tmp_path / "run", resume=True, callbacks=[recorder])
    assert_same_run(tmp_path / "run", tmp_path / "plain", 12)
    assert [call[2] for call in recorder.calls if call[0] == "start"] == [0, 7]
    assert sum(call[0] == "end" for call in recorder.calls) == 2


def test_an_error_in_a_callback_ends_training_and_the_other_callbacks(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(BrokenError):
        train(toy_config(), tmp_path / "run", callbacks=[recorder, Broken()])
    assert recorder.calls[-1] == ("end", 1)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_without_its_extra_is_refused_before_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str, extra: str, purpose: str) -> None:
        raise ConfigError(f"{purpose} needs the extra '{extra}'")

    monkeypatch.setattr(module, "import_extra", missing)
    value = {"mlflow": "file:runs", "wandb": "offline"}[name]
    with pytest.raises(ConfigError, match=f"monitor.{name} needs the extra '{name}'"):
        train(toy_config(**{f"monitor__{name}": value}), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_tensorboard_gets_losses_and_scores(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    train(toy_config(monitor__tensorboard=True), run, validators=[stop_at(6)])
    train(toy_config(monitor__tensorboard=True), run, resume=True)
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("generator/pixel")] == list(range(1, 13))


@pytest.mark.slow
def test_mlflow_continues_one_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"file:{tmp_path / 'store'}"
    config = toy_config(monitor__mlflow=uri)
    train(config, tmp_path / "run", validators=[stop_at(6)])
    train(config, tmp_path / "run", resume=True)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(module.PROJECT)
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["train.steps"] == "12"
    history = client.get_metric_history(found.info.run_id, "generator/pixel")
    assert [metric.step for metric in history] == list(range(1, 13))
    sheets = client.list_artifacts(found.info.run_id, "samples")
    assert {Path(sheet.path).name for sheet in sheets} >= {"step-00000012.png"}


@pytest.mark.slow
def test_weights_and_biases_writes_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    config = toy_config(monitor__wandb="offline")
    train(config, tmp_path / "run")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert (tmp_path / "run" / "wandb-run-id").read_text()


def test_progress_is_shown_unless_the_level_is_above_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shows_progress()
    monkeypatch.setattr(LOGGER, "level", logging.ERROR)
    LOGGER.manager._clear_cache()
    assert not shows_progress()
    train(toy_config(), tmp_path / "run")
    assert capsys.readouterr().err == ""
