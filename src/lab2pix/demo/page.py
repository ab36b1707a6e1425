"""The demonstration's page: one file that needs nothing beside it."""

from __future__ import annotations

import base64
import json
import os
import platform
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from torch import Tensor

from lab2pix.data.transforms import to_pil
from lab2pix.demo.pictures import Scene
from lab2pix.demo.timelapse import progress_frames
from lab2pix.demo.variants import DemoVariant
from lab2pix.errors import OutputError
from lab2pix.inference import Synthesizer

__all__ = ["write_page"]

WAY_STEPS = 7
_COUNTS = {3: "three", 5: "five"}
_TERMS = {
    "l1": "mean difference of pixels in [-1, 1]",
    "perceptual": "perceptual loss",
    "cycle": "cycle segmentation loss",
    "disagreement": "share of pixels in which its own segmenter sees something else",
}


def write_page(file: Path, run: Path, scenes: Sequence[Scene], synthesizer: Synthesizer, kind: DemoVariant) -> None:
    """Write the page.

    Args:
        file: the HTML file.
        run: the run folder.
        scenes: held-out scenes with what the network drew of them.
        synthesizer: the trained network.
        kind: which demonstration it is of.

    Raises:
        OutputError: the file cannot be written.
    """
    record, log = _read(run)
    text = Template(resources.files("lab2pix.demo").joinpath("page.html").read_text(encoding="utf-8")).substitute(
        condition=kind.condition,
        summary=_summary(record, log, kind),
        columns=f"{kind.condition.capitalize()}, {kind.generated}, {kind.real}",
        count=len(scenes),
        comparing=kind.comparing,
        triples="\n".join(_triple(scene, synthesizer, kind) for scene in scenes),
        colors=kind.colors,
        legend="\n".join(
            f'<li><i style="background:rgb{item.color}"></i><b>{escape(item.name)}</b></li>'
            for item in synthesizer.label_space.classes
        ),
        seed_count=_COUNTS[kind.seeds],
        noise=kind.noise,
        seeds=_seeds(scenes[0], synthesizer, kind),
        way=_way(scenes[0], synthesizer, kind),
        sizes=_sizes(scenes[0], synthesizer, kind),
        film=_film(run, scenes, synthesizer, kind),
        losses=_uri((run / "losses.png").read_bytes()),
        facts="\n".join(
            f"<tr><th>{name}</th><td>{escape(value)}</td></tr>"
            for name, value in _facts(record, log, synthesizer, kind)
        ),
        labels=escape(str(file.parent / "labels")),
        generate=_generate_command(file.parent, run),
        yours=kind.yours,
        own=kind.own,
        train="\n".join(_command(*line) for line in kind.commands),
    )
    unfinished = file.with_name(f".{file.name}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise OutputError(
            f"cannot write {file} ({error.strerror or error}); make room or mend its permissions"
        ) from error


def _read(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return record, log


# --- pictures --------------------------------------------------------------------------------------------------------


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _image(picture: Image.Image | Tensor, alternative: str, *, ids: bool = False) -> str:
    buffer = BytesIO()
    (to_pil(picture) if isinstance(picture, Tensor) else picture).save(buffer, format="PNG")
    kind = ' class="ids"' if ids else ""
    return f'<img{kind} src="{_uri(buffer.getvalue())}" alt="{escape(alternative)}">'


def _figure(image: str, caption: str = "") -> str:
    return f"<figure>{image}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _label(scene: Scene, synthesizer: Synthesizer, kind: DemoVariant) -> str:
    present = sorted(set(scene.label.flatten().tolist()))
    names = ", ".join(synthesizer.label_space.names[index] for index in present)
    return _image(
        synthesizer.label_space.to_colors(scene.label), f"{kind.condition.capitalize()} with {names}", ids=True
    )


def _real(scene: Scene, kind: DemoVariant) -> str:
    if kind.unpaired:
        alternative = f"The scene that was drawn for this {kind.condition}, never shown with it in training"
        return _image(scene.real, alternative)
    return _image(scene.real, f"The true picture {scene.name}")


def _triple(scene: Scene, synthesizer: Synthesizer, kind: DemoVariant) -> str:
    assert scene.generated is not None
    drawn = _image(scene.generated[0], f"What the network made of the {kind.condition} {scene.name}")
    parts = (
        _figure(_label(scene, synthesizer, kind), kind.condition),
        _figure(drawn, kind.generated),
        _figure(_real(scene, kind), kind.real_caption),
    )
    return f'<div class="triple">{"".join(parts)}</div>'


def _seeds(scene: Scene, synthesizer: Synthesizer, kind: DemoVariant) -> str:
    parts = [_figure(_label(scene, synthesizer, kind), kind.condition)]
    for seed in range(kind.seeds):
        parts.append(_figure(_image(synthesizer(scene.label, seed=seed)[0], f"Seed {seed}"), f"seed {seed}"))
    return "\n".join(parts)


def _way(scene: Scene, synthesizer: Synthesizer, kind: DemoVariant) -> str:
    pictures = synthesizer.interpolate(scene.label, 0, kind.seeds - 1, WAY_STEPS)
    return "\n".join(_figure(_image(picture, f"Step {step} of the way")) for step, picture in enumerate(pictures))


def _sizes(scene: Scene, synthesizer: Synthesizer, kind: DemoVariant) -> str:
    """Return a section with the three pictures of one pass, enlarged pixel by pixel; nothing where there is but one."""
    if scene.generated is None or not scene.smaller:
        return ""
    parts = [_figure(_label(scene, synthesizer, kind), kind.condition)]
    for scale, picture in enumerate((*scene.smaller[::-1], scene.generated[0]), start=1):
        caption = f"X{scale}, {picture.shape[-1]} x {picture.shape[-2]}"
        parts.append(_figure(_image(picture, caption, ids=True), caption))
    return (
        "<h2>Three sizes from one pass</h2>\n"
        '<p class="soft">The network draws small first and goes on from there: all three come from one pass, here '
        "pixel by pixel. Each has a discriminator and a segmenter of its own, and each is asked to agree with the "
        "next.</p>\n"
        f'<div class="row film">\n{"".join(parts)}\n</div>'
    )


def _film(run: Path, scenes: Sequence[Scene], synthesizer: Synthesizer, kind: DemoVariant) -> str:
    """Return one row per filmed scene: what it is drawn from, what became of it over time, its true picture."""
    frames = progress_frames(run, synthesizer.size[0])
    count = min((len(parts) for _, parts in frames), default=0)
    rows = []
    for row, scene in enumerate(scenes[:count]):
        figures = [(_label(scene, synthesizer, kind), kind.condition)]
        figures += [(_image(parts[row], f"After {_steps(step)}"), _steps(step)) for step, parts in frames]
        figures.append((_real(scene, kind), kind.real_caption))
        last = row == count - 1
        rows.append(f'<div class="row film">{"".join(_figure(i, name if last else "") for i, name in figures)}</div>')
    return "\n".join(rows)


# --- words -----------------------------------------------------------------------------------------------------------


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _steps(count: int) -> str:
    return f"{count:,} step{'' if count == 1 else 's'}"


def _training_seconds(log: Iterable[dict[str, Any]]) -> float:
    return max((line["seconds"] for line in log if "seconds" in line), default=0.0)


def _machine(record: dict[str, Any]) -> str:
    """Return what it was trained on, in words: the processor's own name where the system tells it."""
    if record["device"] != "cpu":
        return str(record["device_name"])
    name = str(record["device_name"])
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {record['threads']} of {os.cpu_count()} cores"


def _summary(record: dict[str, Any], log: Sequence[dict[str, Any]], kind: DemoVariant) -> str:
    on = "a GPU" if record["device"] != "cpu" else _cores(int(record["threads"]))
    return (
        f"In {_duration(_training_seconds(log))} on {on} a small {kind.system} learnt to draw landscapes {kind.learnt}."
        f" It has never seen the {kind.condition}s below."
    )


def _cores(count: int) -> str:
    return f"{count} CPU core{'' if count == 1 else 's'}"


def _facts(
    record: dict[str, Any], log: Sequence[dict[str, Any]], synthesizer: Synthesizer, kind: DemoVariant
) -> Iterable[tuple[str, str]]:
    """Yield what the page tells about the run, in order."""
    config = synthesizer.config
    height, width = synthesizer.size
    parameters = sum(parameter.numel() for parameter in synthesizer.generator.parameters())
    yield (
        "Training",
        f"{_duration(_training_seconds(log))}, {_steps(synthesizer.step)} of {config.train.batch_size} scenes",
    )
    yield "Machine", _machine(record)
    yield "System", f"{platform.system()}, Python {record['versions']['python']}, PyTorch {record['versions']['torch']}"
    yield "Pictures", f"{width} x {height} pixels; {record['data']['samples']:,} scenes to train on"
    if kind.unpaired:
        yield "Pairs", f"none: each {kind.condition} met a scene of another one, drawn by lot in every epoch"
    yield "Generator", f"{parameters:,} weights, width {config.generator.width}"
    yield "Eyes", f"{config.backbone.discriminator} (ImageNet), {kind.eyes}"
    losses: dict[str, dict[str, float]] = next((line["losses"] for line in reversed(log) if "losses" in line), {})
    for player, terms in losses.items():
        yield (
            f"{player.capitalize()} losses",
            ", ".join(f"{term.replace('_', ' ')} {value:.3g}" for term, value in terms.items()),
        )
    scores = [line["scores"] for line in log if "scores" in line]
    for name, value in (scores[-1] if scores else {}).items():
        first = f"from {scores[0][name]:.3g} to " if len(scores) > 1 and name in scores[0] else ""
        yield "Held-out scenes", f"{_TERMS.get(name, name)} {first}{value:.3g}"
    yield "Seed", str(config.seed)
    yield "Command", str(record["command"])


def _command(line: str, comment: str) -> str:
    return f"<span># {escape(comment)}</span>\n{escape(line)}"


def _generate_command(out: Path, run: Path) -> str:
    return _command(
        f"lab2pix generate {run} {out / 'labels'} --out {out / 'pictures'} --samples 4",
        "writes NAME_0.png to NAME_3.png",
    )
