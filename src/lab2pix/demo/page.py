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

from lab2pix.data.pixels import to_picture
from lab2pix.demo.film import film_frames
from lab2pix.demo.pictures import Scene
from lab2pix.errors import OutputError
from lab2pix.synthesis import Synthesizer

__all__ = ["write_page"]

SEEDS = (0, 1, 2)
WAY_STEPS = 7
_TERMS = {"l1": "mean difference of pixels in [-1, 1]", "perceptual": "perceptual loss"}


def write_page(file: Path, run: Path, scenes: Sequence[Scene], synthesizer: Synthesizer) -> None:
    """Write the page.

    Args:
        file: the HTML file.
        run: the run folder.
        scenes: held-out scenes with what the network drew of them.
        synthesizer: the trained network.

    Raises:
        OutputError: the file cannot be written.
    """
    record, log = _read(run)
    text = Template(resources.files("lab2pix.demo").joinpath("page.html").read_text(encoding="utf-8")).substitute(
        summary=_summary(record, log),
        count=len(scenes),
        triples="\n".join(_triple(scene, synthesizer) for scene in scenes),
        legend="\n".join(
            f'<li><i style="background:rgb{item.color}"></i><b>{escape(item.name)}</b></li>'
            for item in synthesizer.label_space.classes
        ),
        seeds=_seeds(scenes[0], synthesizer),
        way=_way(scenes[0], synthesizer),
        film=_film(run, scenes, synthesizer),
        losses=_uri((run / "losses.png").read_bytes()),
        facts="\n".join(
            f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in _facts(record, log, synthesizer)
        ),
        labels=escape(str(file.parent / "labels")),
        generate=_generate_command(file.parent, run),
        train=_train_commands(),
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
    (to_picture(picture) if isinstance(picture, Tensor) else picture).save(buffer, format="PNG")
    kind = ' class="ids"' if ids else ""
    return f'<img{kind} src="{_uri(buffer.getvalue())}" alt="{escape(alternative)}">'


def _figure(image: str, caption: str = "") -> str:
    return f"<figure>{image}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _label(scene: Scene, synthesizer: Synthesizer) -> str:
    present = sorted(set(scene.label.flatten().tolist()))
    names = ", ".join(synthesizer.label_space.names[index] for index in present)
    return _image(synthesizer.label_space.to_colors(scene.label), f"Label map with {names}", ids=True)


def _triple(scene: Scene, synthesizer: Synthesizer) -> str:
    assert scene.generated is not None
    parts = (
        _figure(_label(scene, synthesizer), "label map"),
        _figure(_image(scene.generated, f"What the network made of the label map {scene.name}"), "generated"),
        _figure(_image(scene.real, f"The true picture {scene.name}"), "true"),
    )
    return f'<div class="triple">{"".join(parts)}</div>'


def _seeds(scene: Scene, synthesizer: Synthesizer) -> str:
    parts = [_figure(_label(scene, synthesizer), "label map")]
    for seed in SEEDS:
        parts.append(_figure(_image(synthesizer(scene.label, seed=seed)[0], f"Seed {seed}"), f"seed {seed}"))
    return "\n".join(parts)


def _way(scene: Scene, synthesizer: Synthesizer) -> str:
    pictures = synthesizer.interpolate(scene.label, SEEDS[0], SEEDS[-1], WAY_STEPS)
    return "\n".join(_figure(_image(picture, f"Step {step} of the way")) for step, picture in enumerate(pictures))


def _film(run: Path, scenes: Sequence[Scene], synthesizer: Synthesizer) -> str:
    """Return one row per filmed scene: its label map, what was drawn of it over time, the true picture."""
    frames = film_frames(run, synthesizer.size[0])
    count = min((len(parts) for _, parts in frames), default=0)
    rows = []
    for row, scene in enumerate(scenes[:count]):
        figures = [(_label(scene, synthesizer), "label map")]
        figures += [(_image(parts[row], f"After {_steps(step)}"), _steps(step)) for step, parts in frames]
        figures.append((_image(scene.real, f"The true picture {scene.name}"), "true"))
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


def _summary(record: dict[str, Any], log: Sequence[dict[str, Any]]) -> str:
    on = "a GPU" if record["device"] != "cpu" else _cores(int(record["threads"]))
    return (
        f"In {_duration(_training_seconds(log))} on {on} a small Lab2Pix-V2 learnt to draw landscapes from maps that "
        "say which class each pixel is. It has never seen the label maps below."
    )


def _cores(count: int) -> str:
    return f"{count} CPU core{'' if count == 1 else 's'}"


def _facts(
    record: dict[str, Any], log: Sequence[dict[str, Any]], synthesizer: Synthesizer
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
    yield "Generator", f"{parameters:,} weights, width {config.generator.width}"
    yield "Eyes", f"{config.backbone.discriminator} (ImageNet), for discriminators and perceptual loss"
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


def _train_commands() -> str:
    data = "data.layout=folder data.root=mine data.label_space=mine.yaml"
    lines = (
        ("lab2pix data check mine --labels mine.yaml", "does everything fit together?"),
        (f"lab2pix train v2-small {data} data.size=[128,128] --out runs/mine", "train"),
        ("lab2pix generate runs/mine mine/labels/val --out pictures", "draw"),
    )
    return "\n".join(_command(*line) for line in lines)
