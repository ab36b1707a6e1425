"""Generation of a folder on a Ray cluster of two workers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab2pix import Synthesizer, cli
from lab2pix.data.pairs import Pair
from lab2pix.errors import ConfigError, LabelError, TrainingError
from lab2pix.inference import generate_folder
from lab2pix.inference.cluster import map_on_ray
from tests.helpers.generators import tiny_synthesizer

COUNT = 30


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return tiny_synthesizer()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find the tests
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    (folder / "town").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(COUNT):
        ids = random.integers(0, 14, (8, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(ids).save(folder / ("town" if number % 2 else "") / f"{number:02d}.png")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def workers_of_this_process() -> list[int]:
    """Return the ids of Ray's actors that a cluster started by this process runs."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    ours = [pid for pid, parent in parents.items() if parents.get(parent) == os.getpid()]
    return [pid for pid in ours if titles[pid].startswith(b"ray::MapWorker")]


@pytest.mark.xslow
def test_a_killed_worker_is_replaced_and_the_images_are_those_of_one_machine(
    cluster: None, labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    """The label map that cannot be read is reported once; a second call makes nothing again."""
    (labels / "torn.png").write_bytes((labels / "00.png").read_bytes()[:60])
    alone = generate_folder(synthesizer, labels, tmp_path / "alone", samples=2)
    killed: list[int] = []

    def on_progress(done: int, total: int) -> None:
        if not killed:
            killed.append(workers_of_this_process()[0])
            os.kill(killed[0], signal.SIGKILL)

    out = tmp_path / "shared"
    out.mkdir()
    (out / "00_0.png").write_bytes(b"mine")
    report = generate_folder(
        synthesizer, labels, out, samples=2, engine="ray", workers=2, batch_size=1, on_progress=on_progress
    )
    assert killed and killed[0] not in workers_of_this_process()
    assert sorted(file.name for file in report.written) == sorted(
        file.name for file in alone.written if file.name != "00_0.png"
    )
    assert report.skipped == [out / "00_0.png"]
    assert report.failed == alone.failed
    made, expected = files(out), files(tmp_path / "alone")
    assert made.pop("00_0.png") == b"mine"
    del expected["00_0.png"]
    assert made == expected

    again = generate_folder(synthesizer, labels, out, samples=2, engine="ray")
    assert (again.written, len(again.skipped)) == ([], 2 * COUNT)


def _die(once: Path | None, synthesizer: Synthesizer, pairs: Sequence[Pair]) -> str:
    if once is None or not once.exists():
        if once is not None:
            once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return synthesizer.mode + pairs[0].name


@pytest.mark.xslow
def test_a_task_is_repeated_after_its_worker_has_died_but_not_forever(
    cluster: None, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    chunks = [[Pair(name, Path(name))] for name in "abc"]
    results = dict(map_on_ray(synthesizer, partial(_die, tmp_path / "dead"), chunks, 1))
    assert results == {0: "plaina", 1: "plainb", 2: "plainc"}
    with pytest.raises(TrainingError, match=r"4 workers died with a, or with"):
        list(map_on_ray(synthesizer, partial(_die, None), chunks[:1], 1))


@pytest.mark.xslow
def test_an_error_of_a_worker_is_the_users_sentence(
    cluster: None, labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    with pytest.raises(LabelError, match="add --label-space scenes"):
        generate_folder(synthesizer, labels, tmp_path / "out", engine="ray", allow_bare_ids=False)


def test_ray_needs_its_extra(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="--engine ray needs the extra 'ray': pip install"):
        generate_folder(synthesizer, labels, tmp_path / "out", engine="ray")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="leave out torchrun"):
        generate_folder(synthesizer, labels, tmp_path / "out", engine="ray")


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--engine", "ray", "--device", "cpu"), "omit --device"), (("--workers", "2"), "add --engine ray")],
)
def test_options_of_the_other_engine_are_refused(
    options: tuple[str, ...], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["generate", "scenes", str(tmp_path), "--out", str(tmp_path / "out"), *options])
    assert exit_info.value.code == 2
    assert text in capsys.readouterr().err
