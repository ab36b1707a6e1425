"""The benchmark of synthetic training data: mixing, its table, and a whole small one."""

from __future__ import annotations

import json
from pathlib import Path

import downstream
import pytest
import yaml
from _jobs import ENDED, Job, run_jobs
from PIL import Image

from lab2pix.data.label_maps import read_label, write_label_png
from lab2pix.data.pairs import Pair
from lab2pix.inference.augment import with_unknown
from lab2pix.labels.space import LabelSpace
from tests.helpers.images import write_set

TINY_V2 = (
    *("generator.width=2", "generator.modulation_hidden=4", "generator.global_encoder.width=4"),
    *(
        "generator.global_encoder.max_width=8",
        "discriminator.width=4",
        "discriminator.max_width=8",
        "monitor.samples=2",
    ),
)
TINY_V1 = (*TINY_V2, "segmenter.width=4", "segmenter.blocks=[1,1,1,1]")


def pairs(prefix: str, count: int) -> list[Pair]:
    return [Pair(f"{prefix}{number}", Path(f"{prefix}{number}.png")) for number in range(count)]


def test_fewer_real_pairs_are_part_of_more():
    everything = pairs("p", 20)
    assert downstream.choose(everything, 5) == downstream.choose(everything[::-1], 12)[:5]


@pytest.mark.parametrize(("synthetic", "ratio", "repeats"), [(0, 1, 1), (12, 1, 3), (12, 3, 1), (2, 1, 1)])
def test_real_pairs_are_repeated_up_to_the_ratio(synthetic, ratio, repeats):
    mixed = downstream.mix(pairs("r", 4), pairs("s", synthetic), ratio)
    names = [name for name, _ in mixed]
    assert len(set(names)) == len(names) == 4 * repeats + synthetic
    assert sum(pair.name.startswith("r") for _, pair in mixed) == 4 * repeats


def test_table_has_a_row_per_number_of_pairs():
    spread = {"ciou": {"mean": 0.5, "std": 0.01}}
    text = downstream.table_of({"25": {"alone": spread}, "0": {downstream.S3: {"ciou": {"mean": 0.1, "std": None}}}})
    lines = text.splitlines()
    assert lines[0].startswith("| real pairs | alone | classic |")
    assert lines[2] == "| 25 | 0.500 ± 0.010 " + "| – " * (len(downstream.ARMS) - 1) + "|"
    assert lines[-1] == "Without a labeled photo: S3 of V1: 0.100"


def test_jobs_run_in_order_once_and_after_a_failure_go_on(tmp_path):
    write = (
        "import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir(); open(sys.argv[1] + '/made', 'x').write(sys.argv[2])"
    )
    first, second = (Job(name, ("-c", write, "FOLDER", name), needs) for name, needs in (("a", ()), ("b", ("a",))))
    broken = Job("a", ("-c", "raise SystemExit(3)", "FOLDER"))
    assert run_jobs(tmp_path, [broken, second], 2) == 2
    assert not (tmp_path / "b").exists()
    assert run_jobs(tmp_path, [first, second], 2) == 0
    assert run_jobs(tmp_path, [first, second], 2) == 0  # a second time, mkdir would fail
    assert (tmp_path / "b" / "made").read_text() == "b"
    with pytest.raises(ValueError, match="other settings"):
        run_jobs(tmp_path, [broken], 1)


def write_pairs(data: Path) -> None:
    """Write a dataset of format `folder` with both splits."""
    for split, names in (("train", "abcdef"), ("val", "uv")):
        made = write_set(data.parent / f"made-{data.name}-{split}", tuple(names), size=(64, 64))
        for part, folder in (("images", made.real), ("labels", made.labels)):
            (data / part).mkdir(parents=True, exist_ok=True)
            folder.rename(data / part / split)


def test_segmenters_learn_from_filtered_pairs_and_are_scored(tmp_path):
    runs, space = tmp_path / "runs", with_unknown(LabelSpace.load("scenes"))
    write_pairs(runs / "real-6")
    write_pairs(runs / "synthetic-6")
    file = runs / "synthetic-6/labels/train/a.png"
    ids = read_label(file, space)
    ids[:9] = space.num_classes
    write_label_png(file, ids, space)
    (runs / "synthetic-6/classes.yaml").write_text(yaml.safe_dump(space.to_dict()))
    (runs / "synthetic-6/manifest.jsonl").write_text(
        '{"kept": true, "agreement": 0.5}\n{"kept": false, "agreement": 0.1}\n'
    )
    words = ["--label-space", "scenes", "--size", "64x64", "--counts", "6", "--seeds", "1", "--steps", "20"]
    words += ["--encoder", "tu-mobilenetv3_small_050", "--segmenter-batch", "2", "--runs", str(runs)]
    args = downstream.parser().parse_args(["train", str(runs / "real-6"), *words])
    job = downstream.segmenter_job(args, "segmenter-6-generated-0", 6, downstream.ARMS["generated"], 0)
    assert job.needs == ("synthetic-6",)
    assert downstream.main([*job.words[1:-1], str(runs / job.name)]) == 0
    (runs / job.name / ENDED).write_text("{}")
    other = runs / f"{downstream.segmenter_name(6, 'generated 3:1')}-0"
    other.mkdir()
    (other / ENDED).write_text("{}")
    (other / "segmenter.json").write_text('{"held_out": {"ciou": 0.75, "ppa": 0.5}}')
    assert downstream.main(["score", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out/downstream.json").read_text())
    info = json.loads((runs / job.name / "segmenter.json").read_text())
    assert info["training"]["pairs"] == 12
    assert record["rows"]["6"]["generated"]["ciou"]["mean"] == info["held_out"]["ciou"]
    assert record["rows"]["6"]["generated 3:1"]["ciou"]["mean"] == 0.75
    assert record["synthetic"] == {"synthetic-6": {"images": 2, "kept": 1, "agreement": 0.3}}
    assert Image.open(tmp_path / "out/downstream.png").width > 500


@pytest.mark.timeout(900)
def test_a_small_benchmark_runs_every_kind_of_job(tmp_path, monkeypatch):
    arms = {name: downstream.ARMS[name] for name in ("alone", "generated")}  # each is a process
    monkeypatch.setattr(downstream, "ARMS", arms)
    data, runs, out = tmp_path / "data", tmp_path / "runs", tmp_path / "out"
    write_pairs(data)
    words = (
        f"train {data} --runs {runs} --label-space scenes --size 64x64 --counts 4 --seeds 1 --synthetic 8 --steps 20"
    )
    words += " --encoder tu-mobilenetv3_small_050 --jobs 2 --segmenter-batch 2 --gan-steps 2 --batch-size 2"
    words += f" --least-agreement 0 --gan-settings {' '.join(TINY_V2)} --v1-settings {' '.join(TINY_V1)}"
    assert downstream.main(words.split()) == 0
    assert downstream.main(["score", "--runs", str(runs), "--out", str(out)]) == 0
    record = json.loads((out / "downstream.json").read_text())
    assert set(record["rows"]["4"]) == set(arms)
    assert set(record["rows"]["0"]) == {downstream.UNLABELED, downstream.S3}
    assert record["synthetic"]["synthetic-4"]["images"] == 8
    assert all(0 <= row["ciou"]["mean"] <= 1 for rows in record["rows"].values() for row in rows.values())
    assert (out / "downstream.md").read_text().startswith("| real pairs |")
    before = (runs / "segmenter-4-generated-0" / "segmenter.json").stat().st_mtime_ns
    assert downstream.main(words.split()) == 0  # nothing is left to do
    assert (runs / "segmenter-4-generated-0" / "segmenter.json").stat().st_mtime_ns == before
