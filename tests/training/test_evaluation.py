"""Scores during training: no side effects, equality with `lab2pix evaluate`, and the best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from lab2pix import load_config
from lab2pix.config.schema import RunConfig
from lab2pix.data.files import read_image
from lab2pix.data.transforms import float_to_uint8, resize_image
from lab2pix.errors import ConfigError, LabelError, TrainingError, WeightsError
from lab2pix.evaluation.accumulator import MetricAccumulator, Networks
from lab2pix.evaluation.features import FeatureNetwork, load_features
from lab2pix.evaluation.metrics.distribution import FeatureMoments, frechet_distance
from lab2pix.evaluation.protocol import Protocol
from lab2pix.inference import Synthesizer
from lab2pix.inference.evaluate import evaluate_run
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, build_method
from lab2pix.reporting.scores import higher_is_better
from lab2pix.training import evaluation as evaluation_module
from lab2pix.training import monitor, train
from lab2pix.training.checkpoint import list_checkpoints, load_checkpoint
from lab2pix.training.evaluation import (
    biased_feature_warnings,
    build_evaluation,
    evaluation_names,
    is_better,
)
from lab2pix.training.state import Best, build_state
from lab2pix.utils.distributed import DistributedContext
from lab2pix.utils.pretrained import WeightsFile
from tests.helpers import toy
from tests.helpers.commands import sentence
from tests.helpers.small_runs import NO_BACKBONE, SMALL, small
from tests.helpers.toy import ToyData, ToyMethod, assert_same_run, jobs, lines, stop_at, toy_config

CPU = torch.device("cpu")
ALONE = DistributedContext(0, 1, CPU)
SPACE = LabelSpace.load("scenes")
DISTANCES = ("frechet_efficientnet_lite0", "kernel_efficientnet_lite0")


class ToyFeatures(FeatureNetwork):
    """Sees the mean and the deviation of each colour, and disturbs the random numbers."""

    name = "efficientnet_lite0"
    dimension = 6

    def __call__(self, pictures: Tensor) -> Tensor:
        torch.rand(1)
        flat = pictures.float().flatten(2)
        return torch.cat([flat.mean(2), flat.std(2)], 1)

    def describe(self) -> dict[str, Any]:
        return {}

    def to(self, device: torch.device) -> None:
        pass


@pytest.fixture
def judged(toys: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys that are large enough for SSIM, judged through a network that costs nothing."""
    monkeypatch.setattr(toy, "SIDE", 16)
    monkeypatch.setattr(evaluation_module, "load_networks", lambda *arguments: Networks([ToyFeatures()]))


# --- they change nothing ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize("decay", [None, 0.9], ids=["plain", "average"])
def test_evaluated_run_makes_the_same_steps(tmp_path: Path, decay: float | None) -> None:
    train(toy_config(train__ema_decay=decay), tmp_path / "plain")
    result = train(toy_config(train__ema_decay=decay, train__evaluate_every=5), tmp_path / "judged")
    assert_same_run(tmp_path / "plain", tmp_path / "judged", 12)
    assert [line["step"] for line in lines(tmp_path / "judged", "evaluation")] == [5, 10, 12]
    assert lines(tmp_path / "plain", "evaluation") == []
    last = lines(tmp_path / "judged", "evaluation")[-1]["evaluation"]
    assert set(last) == {*DISTANCES, "psnr", "ssim", "checkerboard"}
    assert result.scores == last | lines(tmp_path / "judged", "scores")[-1]["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["v1-small", "v2-small"])
def test_evaluated_run_of_each_method_makes_the_same_steps(tmp_path: Path, preset: str) -> None:
    cheap = NO_BACKBONE if preset == "v1-small" else ()
    for name, every in (("plain", "null"), ("judged", "1")):
        overrides = (*cheap, "train.steps=3", f"train.evaluate_every={every}", "evaluation.count=2")
        train(small(preset, *overrides), tmp_path / name, device="cpu")
    assert_same_run(tmp_path / "plain", tmp_path / "judged", 3)
    assert [line["step"] for line in lines(tmp_path / "judged", "evaluation")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize("decay", [None, 0.9], ids=["plain", "average"])
def test_evaluation_does_not_change_the_training_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: float | None
) -> None:
    really_evaluate = monitor.Monitor.evaluate
    seen = []

    def snapshot(now: monitor.Monitor) -> dict[str, Any]:
        state = now.state
        networks = {**state.method.networks, "sampler": state.sampling_generator}
        tensors = {f"{key}.{name}": t.clone() for key, net in networks.items() for name, t in net.state_dict().items()}
        modes = [part.training for network in networks.values() for part in network.modules()]
        return {**tensors, "random": torch.get_rng_state(), "modes": torch.tensor(modes)}

    def watched(now: monitor.Monitor) -> bool:
        before = snapshot(now)
        improved = really_evaluate(now)
        after = snapshot(now)
        seen.append([name for name in before if not torch.equal(before[name], after[name])])
        return improved

    monkeypatch.setattr(monitor.Monitor, "evaluate", watched)
    train(toy_config(train__ema_decay=decay, train__evaluate_every=6), tmp_path / "run")
    assert seen == [[], []]


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
def test_resume_across_evaluations_is_bit_exact(tmp_path: Path) -> None:
    config = toy_config(train__evaluate_every=5, checkpoint__best="psnr", train__ema_decay=0.9)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", validators=[stop_at(6)])  # the signal comes before the next scores
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 12)
    assert lines(tmp_path / "whole", "evaluation") == lines(tmp_path / "parts", "evaluation")
    names = [[path.name for path in list_checkpoints(tmp_path / run)] for run in ("whole", "parts")]
    assert set(names[0]) <= set(names[1])


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
def test_scores_may_be_turned_on_when_a_run_is_resumed(tmp_path: Path) -> None:
    train(toy_config(), tmp_path / "run", validators=[stop_at(6)])
    file = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    del stored["evaluation"], stored["train"]["evaluate_every"]  # as runs were stored before these settings were there
    file.write_text(yaml.safe_dump(stored))
    result = train(toy_config(train__evaluate_every=4, evaluation__count=3), tmp_path / "run", resume=True)
    assert result.step == 12
    assert [line["step"] for line in lines(tmp_path / "run", "evaluation")] == [8, 12]


# --- they are the evaluator's -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported program that reads some class of scenes in every pixel."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("reader") / "reader.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    network = nn.Conv2d(3, SPACE.num_classes, 5, padding=2).eval()
    program = torch.export.export(network, (torch.rand(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, file)
    file.with_suffix(".json").write_text(json.dumps({"size": [64, 64], "classes": list(SPACE.names)}))
    return file


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Tensor]]:
    """Name, sample set and pixels of each picture that is judged."""
    pictures: list[tuple[str, int, Tensor]] = []
    update = MetricAccumulator.update

    def watched(
        accumulator: MetricAccumulator, names: Sequence[str], samples: Sequence[Tensor], *rest: Tensor | None
    ) -> None:
        for number, each in enumerate(samples):
            pictures.extend((name, number, pixels) for name, pixels in zip(names, each, strict=True))
        update(accumulator, names, samples, *rest)

    monkeypatch.setattr(MetricAccumulator, "update", watched)
    return pictures


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_same_step_gets_the_same_scores_as_from_evaluate(
    channels_last: bool, tmp_path: Path, reader: Path, seen: list[tuple[str, int, Tensor]]
) -> None:
    """The same pictures, bit by bit, whatever the memory order of training and the batch size of either."""
    overrides = (
        *("train.evaluate_every=2", "evaluation.count=4", "evaluation.samples=2", "evaluation.batch_size=3"),
        *(f"evaluation.segmenter={reader}", "train.ema_decay=0.9", "seed=7"),
        f"train.channels_last={channels_last}",
    )
    config = small("v2-small", *overrides)
    train(config, tmp_path / "run", device="cpu")
    drawn = [sorted(part, key=lambda item: item[:2]) for part in (seen[:8], seen[8:])]
    logged = {line["step"]: line["evaluation"] for line in lines(tmp_path / "run", "evaluation")}
    assert list(logged) == [2, 4]
    for (step, scores), pictures in zip(logged.items(), drawn, strict=True):
        seen.clear()
        checkpoint = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        report = evaluate_run(checkpoint, Protocol(segmenter=reader), samples=2, count=4, device="cpu")
        assert (
            set(scores)
            == set(report.scores)
            == {*DISTANCES, *("ppa", "pca", "ciou", "psnr", "ssim")} | {"diversity_pixels", "checkerboard"}
        )
        assert tuple(sorted(scores)) == tuple(sorted(evaluation_names(config)))
        for (*key, pixels), (*other, again) in zip(pictures, sorted(seen, key=lambda item: item[:2]), strict=True):
            assert key == other
            assert torch.equal(pixels, again), key
        for name, value in scores.items():  # the judge's networks round otherwise at another batch size
            assert value == pytest.approx(report.scores[name].mean, rel=1e-6), name
    assert logged[2] != logged[4]


@pytest.mark.slow
def test_evaluation_by_two_processes_equals_one(server, tmp_path: Path, toys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where batch statistics are each process' own until the next step."""
    run = tmp_path / "run"
    changes = {"train__steps": 4, "train__evaluate_every": 2, "checkpoint__every": 2, "evaluation__count": 5}
    for decay in (None, 0.9):
        out = run / str(decay)
        out.parent.mkdir(exist_ok=True)
        config = {**changes, "train__ema_decay": decay, "evaluation__batch_size": 2}
        assert server.run(*jobs(2, out=str(out), config=config, side=16)) == [0, 0]
        monkeypatch.setattr(toy, "SIDE", 16)
        state = build_state(ToyMethod(toy_config(**config), SPACE), CPU)
        evaluation = build_evaluation(state.method, ALONE)
        assert evaluation is not None
        logged = {line["step"]: line["evaluation"] for line in lines(out, "evaluation")}
        assert list(logged) == [2, 4]
        for step, scores in logged.items():
            load_checkpoint(out / "checkpoints" / f"step-{step:08d}", state)
            state.sampling_generator.eval()
            alone = evaluation.scores(state)
            assert scores.keys() == alone.keys()
            for name, value in scores.items():
                assert value == pytest.approx(alone[name], rel=1e-4, abs=1e-6), (decay, step, name)


@pytest.mark.usefixtures("judged")
def test_images_that_are_not_finite_stop_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        evaluation_module, "generate_deterministic", lambda *arguments: [torch.full((1, 3, 16, 16), float("nan"))]
    )
    with pytest.raises(TrainingError, match="generates pixels that are not finite after step 5"):
        train(toy_config(train__evaluate_every=5), tmp_path / "run")


# --- the best by name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        *((name, True) for name in ("ppa", "pca", "ciou", "psnr", "ssim", "diversity_pixels")),
        *((name, False) for name in ("fid", "kid", *DISTANCES, "lpips_vgg")),
        *((name, False) for name in ("l1", "perceptual", "cycle", "seg_error", "size")),
    ],
)
def test_direction_follows_from_the_score_name(name: str, higher: bool) -> None:
    assert higher_is_better(name) == higher
    best = Best(name, 2.0, 1)
    assert (is_better(name, 3.0, best), is_better(name, 1.0, best), is_better(name, 2.0, best)) == (
        *(higher, not higher),
        False,
    )


def test_is_better_refuses_nan_and_ignores_another_score() -> None:
    assert not is_better("psnr", float("nan"), None)
    assert not is_better("fid", float("inf"), None)
    assert is_better("psnr", 1.0, None)
    assert is_better("psnr", 1.0, Best("fid", 2.0, 3))


def judgements(values: Iterator[float], name: str) -> Callable[..., dict[str, float]]:
    return lambda evaluation, state: {name: next(values), "other": 0.0}


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("name", "values", "best"),
    [("ssim", [0.1, 0.3, 0.2, 0.3], 6), (DISTANCES[0], [3.0, 5.0, 2.0, 4.0], 9), ("psnr", [9.0, 8.0, 9.5, 9.6], 12)],
)
def test_the_best_checkpoint_by_a_score_of_the_evaluator_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, values: list[float], best: int
) -> None:
    monkeypatch.setattr(evaluation_module.Evaluation, "scores", judgements(iter(values), name))
    config = toy_config(train__evaluate_every=3, checkpoint__best=name, checkpoint__every=4, checkpoint__keep=1)
    train(config, tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == [
        f"step-{step:08d}" for step in sorted({best, 12})
    ]
    rest = torch.load(list_checkpoints(tmp_path / "run")[-1] / "optimizer.pt", weights_only=True)
    assert rest["best"] == {"score": name, "value": values[best // 3 - 1], "step": best}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("checkpoint.best=psrn", "train.evaluate_every=2"), "unknown score 'psrn'; did you mean 'psnr'?"),
        (("checkpoint.best=perceptul",), "unknown score 'perceptul'; did you mean 'perceptual'?"),
        (("checkpoint.best=psnr",), "'psnr', which the evaluator gives, but train.evaluate_every is null"),
        (("checkpoint.best=kernel_inception",), "but train.evaluate_every is null"),
        (
            ("checkpoint.best=ciou", "train.evaluate_every=2"),
            "'ciou', which takes a segmenter; set evaluation.segmenter",
        ),
        (("checkpoint.best=fid", "train.evaluate_every=2"), "unknown score 'fid'; valid: checkerboard, frechet_"),
    ],
)
def test_a_name_that_no_score_has_is_known_before_the_first_step(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, overrides: tuple[str, ...], words: str
) -> None:
    for dry in ((), ("--dry-run",)):
        sentence(run("train", "v2-small", *SMALL, *overrides, *dry, "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


# --- what cannot be judged, and what one should know --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"classes": [*SPACE.names[:-1], None]}, LabelError, f"13 of the 14 classes .* and lacks '{SPACE.names[-1]}'"),
        ({"size": [32, 32]}, WeightsError, r"other\.pt2 cannot take images of shape \[1, 3, 32, 32\]"),
    ],
    ids=["classes", "size"],
)
def test_an_unsuitable_segmenter_is_refused_before_the_first_step(
    tmp_path: Path, reader: Path, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    other = tmp_path / "other.pt2"
    other.write_bytes(reader.read_bytes())
    other.with_suffix(".json").write_text(json.dumps({"size": [64, 64], "classes": SPACE.names, **settings}))
    config = small("v2-small", "train.evaluate_every=2", f"evaluation.segmenter={other}")
    with pytest.raises(error, match=words):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluation_without_segmenter_or_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("v2-small", "train.evaluate_every=2", "evaluation.segmenter=nowhere")
    with pytest.raises(ConfigError, match="there is no segmenter nowhere; give a folder"):
        train(config, tmp_path / "run", device="cpu")
    pytest.importorskip("torch_fidelity")
    settings = ["train.evaluate_every=2", "evaluation.features=[inception]", "evaluation.inception_weights=none.pth"]
    with pytest.raises(WeightsError, match=r"^evaluation.inception_weights names none.pth, which is not a file"):
        train(small("v2-small", *settings), tmp_path / "run", device="cpu")

    def offline(self: WeightsFile, cached: Path) -> None:
        raise WeightsError(f"fetch {self.file} elsewhere, or set {self.setting}=FILE")

    monkeypatch.setattr(WeightsFile, "_download", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=r"or set evaluation.inception_weights=FILE"):
        train(small("v2-small", *settings[:2]), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("judged")
def test_evaluation_refuses_a_held_out_set_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_module, "build_dataset", lambda *arguments, **options: ToyData(1))
    with pytest.raises(ConfigError, match="only 1 label map is held out"):
        train(toy_config(train__evaluate_every=5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


NARROW = ("generator.width=2", "generator.modulation_hidden=2", "discriminator.width=2", "discriminator.max_width=4")
SIDES = ("data.format=folder",)


def build(config: RunConfig) -> Method:
    return build_method(config, LabelSpace.load(config.data.label_space), pretrained=False)


@pytest.mark.slow
def test_evaluation_without_photos_is_refused(tmp_path: Path) -> None:
    config = load_config(
        "v1-small",
        [*NARROW, "train.evaluate_every=9", *SIDES, "data.labels.root=labels", f"data.images.root={tmp_path}"],
    )
    assert evaluation_names(config) == ()
    with pytest.raises(ConfigError, match=r"nothing to score, as .* has no folder 'val' of photos to compare with"):
        build_evaluation(build(config), ALONE)
    with_segmenter = load_config(config, ["evaluation.segmenter=x", "evaluation.samples=2"])
    assert evaluation_names(with_segmenter) == ("ppa", "pca", "ciou", "diversity_pixels", "checkerboard")
    (tmp_path / "val").mkdir()
    assert evaluation_names(config) == (*DISTANCES, "checkerboard")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[str, ...]:
    """Settings of two folders whose names do not match: four label maps and five photos of another size held out."""
    random = np.random.default_rng(0)
    for side, name, count in (("labels", "map", 4), ("photos", "photo", 5)):
        for split in ("train", "val"):
            (tmp_path / side / split).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 14, (64, 64)) if side == "labels" else random.integers(0, 256, (80, 70, 3))
                picture = Image.fromarray(pixels.astype(np.uint8))
                picture.save(tmp_path / side / split / f"{name}-{number}.png")
    return (*SIDES, f"data.labels.root={tmp_path / 'labels'}", f"data.images.root={tmp_path / 'photos'}")


@pytest.mark.slow
def test_photos_that_belong_to_no_label_map_are_what_distances_are_to(tmp_path: Path, sides: tuple[str, ...]) -> None:
    cheap = (*NO_BACKBONE, "train.steps=2", "train.evaluate_every=2")
    train(small("v1-small", *cheap, *sides), tmp_path / "run", device="cpu")
    [line] = lines(tmp_path / "run", "evaluation")
    assert set(line["evaluation"]) == {*DISTANCES, "checkerboard"}
    report = evaluate_run(tmp_path / "run", device="cpu")
    moved = evaluate_run(tmp_path / "run", count=3, device="cpu")
    for name, value in line["evaluation"].items():
        assert value == pytest.approx(report.scores[name].mean, rel=1e-4, abs=1e-6)
        assert moved.scores[name].mean != pytest.approx(value, rel=1e-3)
    # The same from the pictures themselves.
    synthesizer = Synthesizer.load(tmp_path / "run", device="cpu")
    network = load_features("efficientnet-lite0")
    drawn, photos = FeatureMoments(network.dimension), FeatureMoments(network.dimension)
    for place in range(4):
        batch = synthesizer.read(tmp_path / "labels" / "val" / f"map-{place}.png")
        picture = float_to_uint8(synthesizer.generate(batch, synthesizer.noise(0, place)[None]))
        drawn.update(network(picture), [str(place)])
    for place in range(5):
        photo = resize_image(read_image(tmp_path / "photos" / "val" / f"photo-{place}.png"), (64, 64))
        photos.update(network(photo[None]), [str(place)])
    assert line["evaluation"][DISTANCES[0]] == pytest.approx(frechet_distance(drawn, photos), rel=1e-4)


@pytest.mark.slow
def test_biased_feature_warnings_name_the_features() -> None:
    def warnings(preset: str, *overrides: str) -> list[str]:
        return biased_feature_warnings(build(load_config(preset, [*NARROW, *overrides])))

    [sentence] = warnings("v2-small")
    assert "efficientnet-lite0" in sentence
    assert "backbone.discriminator and backbone.perceptual" in sentence
    assert "evaluation.features" in sentence
    assert warnings("v2-small", "evaluation.features=[inception]") == []
    assert warnings("v2-small", "backbone.discriminator=vgg16", "backbone.perceptual=vgg19") == []
    assert warnings("v2-small", "discriminator.kind=patch", "loss.perceptual=0", "loss.cycle=0") == []
    [sentence] = warnings("v2-small", "discriminator.kind=patch")
    assert "backbone.discriminator" not in sentence


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
def test_evaluation_notes_are_in_the_log_and_on_the_page(tmp_path: Path) -> None:
    config = toy_config(train__evaluate_every=5, features="efficientnet-lite0")
    train(config, tmp_path / "run")
    notes = [line["note"] for line in lines(tmp_path / "run", "note")]
    assert notes[0] == biased_feature_warnings(build(config))[0]
    assert notes[1].startswith("5 images are few for 6 features")
    assert len(notes) == 2  # each once, however often the run is judged
    assert "learns against that network (backbone.discriminator)" in (tmp_path / "run" / "index.html").read_text()
    train(toy_config(features="efficientnet-lite0"), tmp_path / "unjudged")
    assert lines(tmp_path / "unjudged", "note") == []
