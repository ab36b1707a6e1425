"""Training in one process: files, resume, stops and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lab2pix.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError
from lab2pix.training import latest_checkpoint, read_run_config, run_folder, state, train
from lab2pix.training.checkpoint import list_checkpoints
from lab2pix.training.state import TrainingState
from lab2pix.utils import threads
from tests.helpers.toy import (
    PATCHED,
    SAMPLES,
    SIDE,
    ToyData,
    ToyMethod,
    assert_same_run,
    lines,
    stop_at,
    toy_config,
    use_toys,
    weights,
)

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps in one go."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in PATCHED:
            patch.setattr(module, name, getattr(module, name))
        use_toys(plots=True)
        run = tmp_path_factory.mktemp("runs") / "unbroken"
        train(toy_config(), run)
    return run


@pytest.mark.slow
def test_train_writes_the_run_folder(unbroken: Path) -> None:
    assert {path.name for path in unbroken.iterdir()} == {
        *("config.yaml", "run.json", "log.jsonl", "checkpoints", "samples", "losses.png", "index.html", ".lock")
    }
    assert read_run_config(unbroken) == toy_config()
    assert [path.name for path in list_checkpoints(unbroken)] == ["step-00000010", "step-00000012"]
    assert sorted(path.name for path in (unbroken / "samples").iterdir()) == ["step-00000006.png", "step-00000012.png"]
    record = json.loads((unbroken / "run.json").read_text())
    assert record["seed"] == 0
    assert record["data"] == {"samples": SAMPLES, "file_hash": "toy-7"}
    assert record["versions"]["torch"] == torch.__version__
    assert record["device"] == "cpu"
    assert [session["from_step"] for session in record["sessions"]] == [0]
    log = lines(unbroken)
    assert [line["step"] for line in log] == list(range(1, 13))
    assert set(log[0]["losses"]["generator"]) == {"adversarial", "pixel"}
    assert log[-1]["epoch"] == 12 * 4 // SAMPLES
    assert log[0]["lr"]["generator"] == pytest.approx(2e-4)
    assert log[-1]["lr"]["generator"] == pytest.approx(2e-4 / 6)
    assert [line["step"] for line in lines(unbroken, "scores")] == [6, 12]


def test_git_state_is_the_packages_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = run_folder._git_state()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)  # a repository that has nothing to do with it
    assert run_folder._git_state() == here


def test_checkpoint_is_the_exported_form(unbroken: Path) -> None:
    folder = latest_checkpoint(unbroken)
    assert folder is not None
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "config.json", "training.safetensors", "optimizer.pt")
    }
    description = json.loads((folder / "config.json").read_text())
    assert description["format"] == "lab2pix-2"
    assert description["step"] == 12
    assert description["label_space"]["name"] == "scenes"
    assert description["config"] == toy_config().model_dump(mode="json")


def test_sample_sheet_has_label_generated_and_real(unbroken: Path) -> None:
    with Image.open(unbroken / "samples" / "step-00000012.png") as sheet:
        assert sheet.width >= 3 * SIDE
        assert sheet.height >= 2 * SIDE
    with Image.open(unbroken / "losses.png") as plot:
        assert plot.width == 800


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 7])  # before the first checkpoint would be due, and in the middle of an epoch
def test_resume_after_a_signal_is_bit_exact(unbroken: Path, tmp_path: Path, step: int) -> None:
    run = tmp_path / "run"
    config = toy_config(monitor__sample_every=step)
    result = train(config, run, validators=[stop_at(step)])
    assert (result.step, result.interrupted, result.exit_code) == (step + 1, True, 143)
    assert lines(run, "note")[-1]["note"].startswith(f"stopped at step {step + 1} of 12 (SIGTERM)")
    result = train(toy_config(), run, resume=True)
    assert (result.step, result.interrupted, result.exit_code) == (12, False, 0)
    assert_same_run(unbroken, run, 12)
    assert [session["from_step"] for session in json.loads((run / "run.json").read_text())["sessions"]] == [0, step + 1]


@pytest.mark.slow
def test_a_resumed_run_keeps_its_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = tmp_path / "run", []

    def look(*_: object) -> dict[str, float]:
        seen.append(torch.get_num_threads())
        return {}

    def part(number: int, free: int, **settings: int) -> str:
        seen.clear()
        monkeypatch.setattr(threads, "choose_threads", lambda most: min(most, free))
        config = toy_config(monitor__sample_every=1, **settings)
        train(config, run, resume=number > 0, validators=[look, stop_at(2 * number + 1)])
        assert torch.get_num_threads() == 3
        return [line["note"] for line in lines(run, "note") if "thread" in line["note"]][-1]

    with threads.limit_threads(3):
        note = "this run computes with 2 of 3 threads, as many as there were free processors when it began"
        assert part(0, free=2) == f"{note}; train.threads=3 takes all"
        assert seen == [2, 2]
        assert part(1, free=3).startswith(note) and seen == [2, 2]
        assert "was started with 2 threads and goes on with 1" in part(2, free=3, train__threads=1) and seen == [1, 1]
    record = json.loads((run / "run.json").read_text())
    assert record["threads"] == 2 and [session["threads"] for session in record["sessions"]] == [2, 2, 1]


def test_train_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # a background process may ignore it
    result = train(toy_config(), tmp_path / "run", validators=[stop_at(6, signal.SIGINT)])
    assert (result.step, result.exit_code) == (7, 130)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_validator_of_the_guide_counts_the_parameters_of_the_generator(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "training.md").read_text(encoding="utf-8")
    source = next(text for text in guide.split("```python\n") if text.startswith("def parameters")).split(
        "\n\n\ntrain("
    )[0]
    names: dict[str, Any] = {}
    exec(source, names)
    states: list[TrainingState] = []

    def look(now: TrainingState, run: Path, step: int) -> dict[str, float]:
        states.append(now)
        return {}

    result = train(toy_config(), tmp_path / "run", validators=[names["parameters"], look])
    count = sum(weight.numel() for weight in states[0].method.networks["generator"].parameters())
    assert result.scores["size"] == count > 0


@pytest.mark.slow
def test_resume_cuts_the_log_and_drops_unfinished_folders(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(toy_config(), run, validators=[stop_at(6)])
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "losses": {"generator": {"pixel": 1.0}}}\n{"step": 9, "los')
    (run / "checkpoints" / ".tmp-step-00000009").mkdir()
    (run / "checkpoints" / ".tmp-step-00000009" / "model.safetensors").write_text("half")
    train(None, run, resume=True)
    assert_same_run(unbroken, run, 12)
    assert not list((run / "checkpoints").glob(".tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"train__accumulate": 2},
        {"train__ema_decay": 0.9},
        {"train__precision": "bf16"},
        {"train__precision": "fp16"},
        {"train__channels_last": True},
    ],
    ids=lambda changes: next(iter(changes)).removeprefix("train__") + "=" + str(next(iter(changes.values()))),
)
def test_resume_is_bit_exact_with_every_setting(tmp_path: Path, changes: dict) -> None:
    config = toy_config(train__steps=6, monitor__sample_every=3, **changes)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", validators=[stop_at(3)])
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)


@pytest.mark.slow
def test_phase_with_interval_runs_at_every_second_step(tmp_path: Path) -> None:
    config = toy_config(train__steps=5, interval=2, monitor__log_every=1, monitor__sample_every=1)
    seen: list[torch.Tensor] = []

    def look(now: TrainingState, run: Path, step: int) -> dict[str, float]:
        seen.append(next(now.method.networks["discriminator"].parameters()).detach().clone())
        return {}

    train(config, tmp_path / "run", validators=[look])
    assert [not torch.equal(*pair) for pair in pairwise(seen)] == [True, False, True, False]  # from step 1 to 2, ...
    logged = [set(line["losses"]) for line in lines(tmp_path / "run") if "losses" in line]
    assert logged == [{"generator"}, {"generator", "discriminator"}] * 2 + [{"generator"}]


@pytest.mark.slow
def test_data_workers_change_nothing(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(toy_config(data__workers=2), run)
    assert_same_run(unbroken, run, 12)


@pytest.mark.slow
def test_monitoring_does_not_change_the_training_state(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(toy_config(monitor__sample_every=4, monitor__samples=3), run)
    assert_same_run(unbroken, run, 12)


@pytest.mark.slow
def test_accumulation_comes_to_the_same_gradients(toys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class WithoutBatchNorm(ToyMethod):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            self.networks["generator"].norm = torch.nn.Identity()
            for network in self.networks.values():  # power iterations advance once per part
                for layer in list(network.modules()):
                    if torch.nn.utils.parametrize.is_parametrized(layer):
                        torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")

    monkeypatch.setattr(state, "build_method", WithoutBatchNorm)
    for parts in (1, 2, 4):
        train(toy_config(train__steps=3, train__accumulate=parts), tmp_path / str(parts))
    for parts in (2, 4):
        whole, split = weights(tmp_path / "1", 3), weights(tmp_path / str(parts), 3)
        for name, tensor in whole.items():
            if name.endswith(
                ("discriminator.0.bias", "seen")
            ):  # instance norm takes the bias away: its gradient is rounding
                continue
            torch.testing.assert_close(split[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ema_generator_draws_samples_and_is_exported(tmp_path: Path) -> None:
    train(toy_config(train__ema_decay=0.9), tmp_path / "run")
    found = weights(tmp_path / "run", 12)
    assert not torch.equal(found["model:last.weight"], found["training:generator.last.weight"])
    assert torch.equal(found["model:norm.running_mean"], found["training:generator.norm.running_mean"])


def test_not_finite_loss_stops_before_it_spreads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments, **options) -> ToyMethod:
        method = ToyMethod(*arguments, **options)
        method.nan_at = 8
        return method

    monkeypatch.setattr(state, "build_method", broken)
    with pytest.raises(TrainingError, match=r"'pixel' \(nan\) of the generator is not finite at step 8"):
        train(toy_config(), tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000005"]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run", 5).values())


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError(), torch.OutOfMemoryError("x")],
)
def test_out_of_memory_names_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    class Hungry(ToyMethod):
        def generator_backward(self, *arguments):
            raise error

    monkeypatch.setattr(state, "build_method", Hungry)
    with pytest.raises(TrainingError) as caught:
        train(toy_config(), tmp_path / "run")
    for setting in (
        "train.accumulate (now 1)",
        "train.batch_size (now 4)",
        "data.size",
    ):
        assert setting in str(caught.value)


@pytest.mark.slow
def test_max_minutes_ends_with_a_checkpoint(tmp_path: Path) -> None:
    result = train(toy_config(train__max_minutes=1e-6), tmp_path / "run")
    assert (result.step, result.interrupted, result.exit_code) == (1, False, 0)
    assert (tmp_path / "run" / "samples" / "step-00000001.png").exists()
    config = toy_config(train__max_minutes=None)
    assert train(config, tmp_path / "run", resume=True).step == 12


@pytest.mark.slow
def test_best_checkpoint_stays(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0, 2.5, 2.0, 2.0])
    config = toy_config(monitor__sample_every=2, checkpoint__best="fid", checkpoint__every=3, checkpoint__keep=1)
    result = train(config, tmp_path / "run", validators=[lambda method, run, step: {"fid": next(values)}])
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000004", "step-00000012"]
    assert set(result.scores) == {"l1", "fid", "checkerboard"}


def test_unknown_best_score_names_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown score 'quality'; valid: checkerboard, l1"):
        train(toy_config(checkpoint__best="quality"), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "known before the first step"


@pytest.mark.slow
def test_validator_sees_the_drawing_generator(tmp_path: Path) -> None:
    seen = []

    def validator(state: TrainingState, run: Path, step: int) -> dict[str, float]:
        generator = state.sampling_generator
        seen.append((run, step, generator.training, any(p.requires_grad for p in generator.parameters())))
        return {}

    train(toy_config(train__ema_decay=0.9), tmp_path / "run", validators=[validator])
    assert seen == [(tmp_path / "run", 6, False, False), (tmp_path / "run", 12, False, False)]


def test_folder_of_another_run_is_left_alone(unbroken: Path, tmp_path: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in unbroken.rglob("*"))
    with pytest.raises(OutputError, match="already holds a run; continue it with --resume"):
        train(toy_config(), unbroken)
    assert sorted(path.stat().st_mtime_ns for path in unbroken.rglob("*")) == before


def test_train_refuses_foreign_folders_files_and_forbidden_paths(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not empty \(it holds 'thesis.txt'\)"):
        train(toy_config(), tmp_path)
    with pytest.raises(OutputError, match="is a file"):
        train(toy_config(), tmp_path / "thesis.txt")
    with pytest.raises(OutputError, match="is a file"):
        train(toy_config(), tmp_path / "thesis.txt" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nobody may make folders")
def test_train_refuses_an_unwritable_folder() -> None:
    with pytest.raises(OutputError, match=r"/proc|permission"):
        train(toy_config(), Path("/proc/lab2pix-run"))


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_train_refuses_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission to write"):
        train(toy_config(), tmp_path / "run")
    tmp_path.chmod(0o700)


def test_resume_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        train(toy_config(), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_resume_refuses_settings_that_change_results(unbroken: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size \(was 4, asked 2\), train.steps \(was 12, asked 20\)"):
        train(toy_config(train__batch_size=2, train__steps=20), unbroken, resume=True)


def test_resume_of_a_finished_run_makes_no_step(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = (unbroken / "log.jsonl").read_text()
    result = train(toy_config(data__workers=1, checkpoint__every=3), unbroken, resume=True)
    assert (result.step, result.losses) == (12, {})
    assert "all of its 12 steps are made" in capsys.readouterr().err.replace("\n", " ")
    assert (unbroken / "log.jsonl").read_text() == log


@pytest.mark.slow
def test_resume_refuses_other_files(toys, tmp_path: Path) -> None:
    train(toy_config(), tmp_path / "run", validators=[stop_at(6)])
    toys(ToyData(8))
    with pytest.raises(CheckpointError, match=r"not those that the run .* \(7 samples then, 8 now\)"):
        train(toy_config(), tmp_path / "run", resume=True)


@pytest.mark.slow
def test_files_mended_before_the_first_checkpoint_are_taken(toys, tmp_path: Path) -> None:
    run = tmp_path / "run"
    toys(ToyData(7, broken=0))
    with pytest.raises(DataError, match="photo 0 cannot be read"):
        train(toy_config(), run)
    toys(ToyData(8))
    assert train(toy_config(), run, resume=True).step == 12
    record = json.loads((run / "run.json").read_text())
    assert record["data"] == {"samples": 8, "file_hash": "toy-8"}
    assert [session["from_step"] for session in record["sessions"]] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_photo_is_named(toys, tmp_path: Path, workers: int) -> None:
    toys(ToyData(broken=3))
    with pytest.raises(DataError, match=r"^photo 3 cannot be read$"):
        train(toy_config(data__workers=workers), tmp_path / "run")


def test_bad_settings_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be split evenly"):
        train(toy_config(train__accumulate=3), tmp_path / "run")
    with pytest.raises(ConfigError, match="device 'cuda' is not available" if not torch.cuda.is_available() else "no"):
        train(
            toy_config(train__accumulate=3), tmp_path / "run", device="cuda" if not torch.cuda.is_available() else "no"
        )
    assert not (tmp_path / "run").exists()
