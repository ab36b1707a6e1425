"""The self-contained page of a demonstration."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from lab2pix.data.transforms import to_pil
from lab2pix.demo.images import Scene
from lab2pix.demo.timelapse import progress_frames
from lab2pix.demo.variants import DemoVariant
from lab2pix.inference import Synthesizer
from lab2pix.reporting.html import inline_image, write_html
from lab2pix.reporting.scores import score_title
from lab2pix.training.log import read_log
from lab2pix.utils.files import output_errors
from lab2pix.utils.text import plural

INTERPOLATION_STEPS = 7
Captioned = tuple[Markup, str]


def write_page(file: Path, run: Path, scenes: Sequence[Scene], synthesizer: Synthesizer, kind: DemoVariant) -> None:
    """Write the page.

    Raises:
        OutputError: the file cannot be written.
    """
    record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    log = list(read_log(run / "log.jsonl"))
    images = _Images(synthesizer, kind)
    losses = None
    if (run / "losses.png").exists():  # needs the extra `plots`
        with Image.open(run / "losses.png") as plot:
            losses = inline_image(plot, "Loss curves and validation scores", lossless=True, longest=4096, css="plot")
    with output_errors(file, "free some space or change its permissions"):
        write_html(
            file,
            "demo.html",
            title=f"Lab2Pix demo: landscapes from {kind.condition}s",
            kind=kind,
            summary=_summary(record, log, kind),
            triples=[images.triple(scene) for scene in scenes],
            classes=synthesizer.label_space.classes,
            seeds=images.seeds(scenes[0]),
            interpolation=images.interpolation(scenes[0]),
            sizes=images.sizes(scenes[0]),
            film=images.film(scenes, run),
            losses=losses,
            run_facts=list(_facts(record, log, synthesizer, kind)),
            out=file.parent,
            run=run,
        )


class _Images:
    """Embedded images with their captions, in rows."""

    def __init__(self, synthesizer: Synthesizer, kind: DemoVariant) -> None:
        self.synthesizer = synthesizer
        self.kind = kind

    @staticmethod
    def _image(image: Image.Image | Tensor, alt: str, *, ids: bool = False) -> Markup:
        image = to_pil(image) if isinstance(image, Tensor) else image
        return inline_image(image, alt, ids=ids, lossless=True, longest=4096)

    def label(self, scene: Scene) -> Captioned:
        space, condition = self.synthesizer.label_space, self.kind.condition
        names = ", ".join(space.names[index] for index in sorted(set(scene.label.flatten().tolist())))
        return self._image(space.to_colors(scene.label), f"{condition.capitalize()} with {names}", ids=True), condition

    def real(self, scene: Scene) -> Captioned:
        alt = f"The real image {scene.name}"
        if self.kind.unpaired:
            alt = f"The scene of this {self.kind.condition}, never shown with it in training"
        return self._image(scene.real, alt), self.kind.real_caption

    def triple(self, scene: Scene) -> list[Captioned]:
        assert scene.generated is not None
        alt = f"Generated from the {self.kind.condition} {scene.name}"
        return [self.label(scene), (self._image(scene.generated[0], alt), self.kind.generated), self.real(scene)]

    def seeds(self, scene: Scene) -> list[Captioned]:
        images = [self.synthesizer(scene.label, seed=seed).tensor[0] for seed in range(self.kind.seeds)]
        return [self.label(scene), *((self._image(x, f"Seed {seed}"), f"seed {seed}") for seed, x in enumerate(images))]

    def interpolation(self, scene: Scene) -> list[Markup]:
        images = self.synthesizer.interpolate(scene.label, 0, self.kind.seeds - 1, INTERPOLATION_STEPS).tensor
        return [self._image(image, f"Interpolation, image {step}") for step, image in enumerate(images)]

    def sizes(self, scene: Scene) -> list[Captioned]:
        """Return the images of one pass at all sizes; nothing where there is only one size."""
        if scene.generated is None or not scene.smaller:
            return []
        captioned = [self.label(scene)]
        for scale, image in enumerate((*scene.smaller[::-1], scene.generated[0]), start=1):
            caption = f"X{scale}, {image.shape[-1]} x {image.shape[-2]}"
            captioned.append((self._image(image, caption, ids=True), caption))
        return captioned

    def film(self, scenes: Sequence[Scene], run: Path) -> list[list[Captioned]]:
        """Return one row per filmed scene: its condition, the generated images over time, its real image."""
        frames = progress_frames(run, self.synthesizer.size[0])
        rows = []
        for row, scene in enumerate(scenes[: min((len(parts) for _, parts in frames), default=0)]):
            parts = [
                (self._image(images[row], f"After {plural(step, 'step')}"), plural(step, "step"))
                for step, images in frames
            ]
            rows.append([self.label(scene), *parts, self.real(scene)])
        return rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _training_time(log: Sequence[dict[str, Any]]) -> str:
    return _duration(max((line["seconds"] for line in log if "seconds" in line), default=0.0))


def _machine(record: dict[str, Any]) -> str:
    """Return the name of the GPU, or of the processor with its threads."""
    name = str(record["device_name"])
    if record["device"] != "cpu":
        return name
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {record['threads']} of {os.cpu_count()} cores"


def _summary(record: dict[str, Any], log: Sequence[dict[str, Any]], kind: DemoVariant) -> str:
    threads = int(record["threads"])
    on = "a GPU" if record["device"] != "cpu" else plural(threads, "CPU core")
    return (
        f"In {_training_time(log)} on {on} a small {kind.system} learned to generate landscapes {kind.learned}."
        f" It has never seen the {kind.condition}s below."
    )


def _facts(
    record: dict[str, Any], log: Sequence[dict[str, Any]], synthesizer: Synthesizer, kind: DemoVariant
) -> Iterator[tuple[str, str]]:
    """Yield facts about the run as names and values, in order."""
    config = synthesizer.config
    height, width = synthesizer.size
    parameters = sum(parameter.numel() for parameter in synthesizer.generator.parameters())
    yield "Training", f"{_training_time(log)}, {plural(synthesizer.step, 'step')} of {config.train.batch_size} scenes"
    yield "Machine", _machine(record)
    yield "System", f"{platform.system()}, Python {record['versions']['python']}, PyTorch {record['versions']['torch']}"
    yield "Images", f"{height} x {width} pixels (height x width); {record['data']['samples']:,} scenes to train on"
    if kind.unpaired:
        yield "Pairs", f"none: each {kind.condition} met a random scene of another one in every epoch"
    yield "Generator", f"{parameters:,} weights"
    losses: dict[str, dict[str, float]] = next((line["losses"] for line in reversed(log) if "losses" in line), {})
    for network, terms in losses.items():
        values = ", ".join(f"{term.replace('_', ' ')} {value:.3g}" for term, value in terms.items())
        yield f"{network.capitalize()} losses", values
    scores = [line["scores"] for line in log if "scores" in line]
    for name, value in (scores[-1] if scores else {}).items():
        first = f"from {scores[0][name]:.3g} to " if len(scores) > 1 and name in scores[0] else ""
        yield "Held-out scenes", f"{score_title(name)}: {first}{value:.3g}"
    yield "Seed", str(config.seed)
    yield "Command", str(record["command"])
