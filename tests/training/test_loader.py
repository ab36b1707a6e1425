"""Prefetching, and measurement of the time spent waiting for data."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from lab2pix.batch import Batch
from lab2pix.recipes import load_config
from lab2pix.training import loader, loop, progress, train
from lab2pix.training.loader import read_batches, read_in_turn
from lab2pix.training.progress import ContentionMeter, DataWaitMeter, contention_hint, data_loading_hint
from lab2pix.training.sampler import StreamSampler
from lab2pix.utils.distributed import DistributedContext
from tests.helpers.toy import ToyData, toy_config, use_toys


def sampler(data: ToyData, steps: int = 6, **changes: int) -> StreamSampler:
    return StreamSampler(len(data), seed=3, batch_size=4, steps=range(steps), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_reading_ahead_gives_the_same_batches(accumulate: int) -> None:
    data = ToyData()
    plain = list(read_in_turn(data, sampler(data, accumulate=accumulate), 0))
    assert len(plain) == 6 and {len(parts) for parts in plain} == {accumulate}
    for workers in (0, 1):
        ahead = list(read_batches(data, sampler(data, accumulate=accumulate), workers))
        for mine, theirs in zip(ahead, plain, strict=True):
            for one, other in zip(mine, theirs, strict=True):
                assert one.names == other.names
                assert torch.equal(one.label, other.label) and torch.equal(one.image, other.image)


class Watched(ToyData):
    """Tells which samples were asked for, and by which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        self.second = threading.Event()

    def __getitem__(self, key: tuple[int, int]) -> dict:
        self.asked.append(key)
        self.threads.add(threading.get_ident())
        if len(self.asked) == 8:
            self.second.set()
        return super().__getitem__(key)


def test_the_next_batch_is_read_while_the_step_is_made() -> None:
    data = Watched()
    batches = read_batches(data, sampler(data), 0)
    next(batches)
    assert data.second.wait(20)  # nobody has asked for the second batch yet
    time.sleep(0.05)
    assert len(data.asked) == 8  # and the third is left for later
    assert threading.get_ident() not in data.threads
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data")]
    assert len(data.asked) == 8


@pytest.mark.slow
def test_many_workers_are_noted_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    data = ToyData()
    batches = read_batches(data, sampler(data, 1), 2)
    monkeypatch.setattr("torch.utils.data.dataloader.os.sched_getaffinity", lambda _: {0}, raising=False)
    assert len(list(batches)) == 1
    assert not [warning for warning in recwarn if "DataLoader" in str(warning.message)]
    config = load_config("v2-small", ["data.workers=3", "train.precision=fp32"])
    monkeypatch.setattr(loop, "available_processors", lambda: 2)
    notes = loop._machine_notes(config, DistributedContext(0, 1, torch.device("cpu")), most=1)
    assert notes == ["data.workers=3 are more than the 2 processors here; lower it"]


def test_reading_in_turn_reads_what_is_asked_for() -> None:
    data = Watched()
    next(read_in_turn(data, sampler(data), 0))
    assert len(data.asked) == 4 and data.threads == {threading.get_ident()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_reading_draws_none_of_the_steps_random_numbers(workers: int) -> None:
    data = ToyData()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert len(list(read_batches(data, sampler(data, 3), workers))) == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU, and there is none")
def test_batches_for_a_gpu_are_pinned() -> None:
    data = ToyData()
    ((batch,),) = read_batches(data, sampler(data, 1), 0, pin=True)
    assert batch.label.is_pinned() and batch.image.is_pinned() and batch.edges is None


def test_pinning_pins_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[tuple[int, ...]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tuple(tensor.shape))
        return tensor + 0

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = Batch(torch.zeros(2, 4, 4), torch.ones(2, 3, 4, 4), torch.ones(2, 1, 4, 4), names=("a", "b"))
    assert batch.pin_memory().names == ("a", "b")
    assert pinned == [(2, 4, 4), (2, 3, 4, 4), (2, 1, 4, 4)]
    assert Batch(torch.zeros(2, 4, 4)).pin_memory().image is None


def test_only_a_gpu_asks_for_pinned_memory(toys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    def make(*arguments: object, pin_memory: bool, **options: object) -> object:
        asked.append(pin_memory)
        return original(*arguments, pin_memory=pin_memory, **options)

    original = loader.DataLoader
    monkeypatch.setattr(loader, "DataLoader", make)
    train(toy_config(train__steps=1), tmp_path / "run", device="cpu")
    list(read_batches(ToyData(), sampler(ToyData(), 1), 0, pin=torch.cuda.is_available()))
    assert asked == [False, torch.cuda.is_available()]


# --- waiting --------------------------------------------------------------------------------------------------------


def test_data_wait_meter_counts_since_the_start_and_since_the_last_line() -> None:
    counted = DataWaitMeter()
    assert counted.share == counted.share_since_last() == 0
    counted.count(1, 3)
    assert counted.share == counted.share_since_last() == 0.25
    counted.count(3, 1)
    assert counted.share == 0.5
    assert counted.share_since_last() == 0.75
    assert counted.share_since_last() == 0


def test_data_bound_is_reported_once_and_after_a_minute() -> None:
    counted = DataWaitMeter()
    counted.count(29, 30)
    assert counted.data_bound() is None  # too soon to say
    counted.count(1, 0)
    assert counted.data_bound() == 0.5
    counted.count(60, 0)
    assert counted.data_bound() is None  # has been said


def test_data_bound_considers_each_minute_by_itself() -> None:
    counted = DataWaitMeter()
    counted.count(600, 0)
    assert counted.data_bound(excused=True) is None
    counted.count(11, 49)
    assert counted.data_bound() is None
    counted.count(20, 40)
    assert counted.data_bound() == pytest.approx(1 / 3)


def test_data_loading_hint_names_a_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "available_processors", lambda: 8)
    way = "--resume with data.workers=2 (now 0), which changes speed only"
    assert data_loading_hint(0.256, 0) == f"26% of the last minute was spent waiting for data: {way}"
    assert "data.workers=8 (now 6)" in data_loading_hint(0.5, 6)
    assert "store the files at about data.size" in data_loading_hint(0.5, 8)


@pytest.mark.slow
def test_log_terminal_and_page_tell_of_waiting(
    toys, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    monkeypatch.setattr(progress, "_WINDOW", 0.5)
    use_toys(ToyData(delay=0.06))
    capsys.readouterr()
    train(toy_config(), slow)
    log = [json.loads(line) for line in (slow / "log.jsonl").read_text().splitlines()]
    shares = [line["waiting"] for line in log if "losses" in line]
    assert len(shares) == 12 and all(0 <= share <= 1 for share in shares)
    assert sorted(shares)[6] > 0.5  # a batch takes 0.24 s to read and a step some milliseconds
    notes = [line["note"] for line in log if "note" in line]
    assert len(notes) == 1 and "of the last minute was spent waiting for data: --resume with data.workers" in notes[0]
    assert notes[0] in capsys.readouterr().err.replace("\n", "")
    assert "% of the latest session waiting for data" in (slow / "index.html").read_text()


def test_contention_is_reported_once_and_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, free = [30.0], [1.0]
    monkeypatch.setattr(progress.ProcessorMeter, "seconds", property(lambda self: seconds[0]))
    monkeypatch.setattr(progress.ProcessorMeter, "free", lambda self: free[0])
    meter, alone = ContentionMeter(2), ContentionMeter(1)
    assert meter.contended() is None  # too soon to say
    seconds[0] = 61
    free[0] = 1.8
    assert meter.contended() is None
    free[0] = 1.3
    assert alone.contended() is None  # no other thread waits for it
    assert meter.contended() == 1.3
    assert meter.contended() is None  # has been said
    assert "train.threads=1" in contention_hint(1.3, 2) and "train.threads=3" in contention_hint(2.6, 4)
