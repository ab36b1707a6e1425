"""Generation of images for whole folders of label maps; each file is written atomically."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.files import IMAGE_SUFFIXES
from lab2pix.data.formats import find_pairs
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.errors import DataError, Lab2PixError, LabelError, OutputError, TrainingError
from lab2pix.inference import weights
from lab2pix.inference.synthesizer import StyleSource, Synthesizer
from lab2pix.labels.decoding import LabelMap
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import expand_user, output_errors, write_png
from lab2pix.utils.registry import DATASET_FORMATS
from lab2pix.utils.text import describe_failures, plural

_LOG = logging.getLogger(__name__)


@dataclass
class GenerateReport:
    """Result of generating a folder.

    Attributes:
        out: output folder.
        written: images written.
        skipped: images that already existed.
        failed: label maps that could not be used, with the reason.
        resized: number of label maps that were resized, by the size that they were resized to.
    """

    out: Path
    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    resized: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether no label map failed."""
        return not self.failed

    def __str__(self) -> str:
        """Return a line of counts, and a line per failed label map."""
        lines = [f"{plural(len(self.written), 'image')} written to {self.out}"]
        if self.skipped:
            lines[0] += f", {len(self.skipped)} existed already (--overwrite replaces them)"
        for (height, width), count in self.resized.items():
            lines.append(f"{plural(count, 'label map')} resized to {height}x{width} (--keep-size keeps their size)")
        return "\n".join([*lines, *describe_failures(self.failed, "label map")])


_BAD_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""Errors that concern one name alone, in contrast to a full disk."""

_SCALES = ("", "_x2", "_x1")
"""File name suffixes of X3, X2 and X1."""


@dataclass(frozen=True)
class _Item:
    """One image to generate: its label map, input, noise, and output file per scale (0 is the largest)."""

    label: Path
    batch: Batch
    noise: Tensor
    files: dict[int, Path]


def generate_folder(
    model: Synthesizer | str | Path,
    labels: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    seed: int = 0,
    samples: int = 1,
    interpolate: tuple[int, int] | None = None,
    steps: int = 8,
    overwrite: bool = False,
    batch_size: int = 8,
    format: str = "folder",
    split: str | None = None,
    keep_size: bool = False,
    scales: bool = False,
    style: StyleSource | None = None,
    allow_bare_ids: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> GenerateReport:
    """Generate images for all label maps of a folder, keeping sub-folders; photos are not needed.

    A label map `city/a.png` becomes `OUT/city/a.png`; with several samples `a_0.png`, `a_1.png`; with interpolation
    `a_000.png`, `a_001.png`. With scales, X2 and X1 are written next to X3 as `a_x2.png` and `a_x1.png` (`a_0_x2.png`,
    ...). Under torchrun the label maps are split over the processes.

    Args:
        model: the model, or what `Synthesizer` loads it from, such as `scenes` or a run folder.
        labels: folder of label maps, a single one, the root of a dataset in `format`, or several of these.
        out: output folder.
        seed: seed of the noise, which is the same for each label map.
        samples: images per label map.
        interpolate: two seeds to interpolate between, instead of `seed` and `samples`.
        steps: number of interpolated images, including both ends.
        overwrite: regenerate existing images.
        batch_size: images per batch; affects only speed and memory.
        format: folder format; see `lab2pix.utils.registry.DATASET_FORMATS`.
        split: split of the dataset; None: all of it.
        keep_size: generate at the size of each label map instead of the training size.
        scales: also write X2 and X1 of each image.
        style: style image of all images, for a generator with an image encoder; None: the style is the noise.
        allow_bare_ids: whether label maps may hold numbers without a palette of the label space's colors, which could
            be those of another label space.
        on_progress: called with the number of finished label maps and their total.

    Returns:
        The written, skipped and failed files.

    Raises:
        ConfigError: several samples from a generator without noise, scales from a generator with one output size, or a
            style image that the generator does not take, or lacks.
        LabelError: a label map holds bare ids, and `allow_bare_ids` is false.
        DataError: no label maps, an unreadable style image, or two label maps with the same output file.
        OutputError: images would be written among the label maps, or cannot be written.
    """
    synthesizer = model if isinstance(model, Synthesizer) else Synthesizer(model)
    sources = [expand_user(source) for source in ([labels] if isinstance(labels, str | Path) else labels)]
    out = expand_user(out)
    listed = [find_pairs(format, source, split, need_images=False) for source in sources]
    pairs: Sequence[Pair] = listed[0] if len(listed) == 1 else [pair for some in listed for pair in some]

    @cache
    def noise(size: tuple[int, int]) -> Tensor:
        return _noise(synthesizer, seed, samples, interpolate, steps, size)

    count = len(noise(synthesizer.size))
    if scales:
        synthesizer.require_scales()
    resized = synthesizer.read_style(style)
    style = style if resized is None or keep_size else resized[0]
    suffixes = _suffixes(count, interpolate is not None, scales)
    _check_outputs(sources, out, pairs, suffixes)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    pairs = pairs[rank::world]
    report = GenerateReport(out)

    pending: list[_Item] = []
    for done, pair in enumerate(pairs):
        if on_progress is not None:
            on_progress(done, len(pairs))
        wanted, existing = _select_files(out, pair.name, suffixes, overwrite)
        report.skipped += existing
        if not wanted:
            continue
        try:
            batch, input_size = _read(synthesizer, pair, style, keep_size, allow_bare_ids)
        except BareIdsError:
            raise
        except Lab2PixError as error:
            if len(sources) == 1 and sources[0].is_file():
                raise
            report.failed.append((pair.label, str(error)))
            continue
        report.resized.update([synthesizer.size] if input_size != synthesizer.size and not keep_size else [])
        for index, files in wanted.items():
            item = _Item(pair.label, batch, noise(batch.size)[index], files)
            if pending and pending[0].batch.size != batch.size:
                _generate_batch(synthesizer, pending, scales, report)
                pending = []
            pending.append(item)
            if len(pending) == batch_size:
                _generate_batch(synthesizer, pending, scales, report)
                pending = []
    if pending:
        _generate_batch(synthesizer, pending, scales, report)
    if on_progress is not None:
        on_progress(len(pairs), len(pairs))
    return report


def _noise(
    synthesizer: Synthesizer,
    seed: int,
    samples: int,
    interpolate: tuple[int, int] | None,
    steps: int,
    size: tuple[int, int],
) -> Tensor:
    """Return the noise of the images of a label map, one row per image."""
    if interpolate is not None:
        return synthesizer.interpolate_noise(*interpolate, steps, size)
    return synthesizer.noise_samples(seed, samples, size)


def _check_outputs(
    sources: Sequence[Path], out: Path, pairs: Sequence[Pair], suffixes: Sequence[Sequence[str]]
) -> None:
    """Check that no image overwrites a label map or another image, and that none is written into the label folder.

    Names can collide: `a_x2.png` is a scale of `a`, or the image of label map `a_x2`.
    """
    made: dict[Path, str] = {}
    for pair in pairs:
        for _, _, file in _files(out, pair.name, suffixes):
            if file in made:
                raise DataError(
                    f"label maps {made[file]} and {pair.name} would both become {file}; rename one of them, or choose "
                    "a folder of its own for each"
                )
            made[file] = pair.name
    written = {file.resolve() for file in made}
    inside = any(source.is_dir() and out.resolve().is_relative_to(source.resolve()) for source in sources)
    if inside or any(source.resolve() in written for source in sources):
        raise OutputError(f"the images would be written among the label maps in {out}; choose another folder")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder for images; choose another one")
    if out.suffix.lower() in IMAGE_SUFFIXES and not out.exists():
        raise OutputError(
            f"{out} is named like an image, but images are written into a folder, under the names of their label "
            f"maps; give a folder such as {out.with_suffix('')}"
        )


def _suffixes(count: int, interpolated: bool, scales: bool) -> list[list[str]]:
    """Return the file name suffix of each image of a label map, per image and scale."""
    digits = 3 if interpolated else 0
    numbers = [""] if count == 1 and not digits else [f"_{index:0{digits}d}" for index in range(count)]
    return [[f"{number}{scale}.png" for scale in _SCALES[: 3 if scales else 1]] for number in numbers]


def _files(out: Path, name: str, suffixes: Sequence[Sequence[str]]) -> Iterator[tuple[int, int, Path]]:
    """Yield image index, scale and output file of each image of a label map."""
    for index, row in enumerate(suffixes):
        for scale, end in enumerate(row):
            yield index, scale, out / f"{name}{end}"


def _select_files(
    out: Path, name: str, suffixes: Sequence[Sequence[str]], overwrite: bool
) -> tuple[dict[int, dict[int, Path]], list[Path]]:
    """Return the files to write for a label map, by image and scale, and the files that already exist."""
    wanted: dict[int, dict[int, Path]] = {}
    existing: list[Path] = []
    for index, scale, file in _files(out, name, suffixes):
        if overwrite or not os.path.exists(file):  # noqa: PTH110 - False for names that are too long
            wanted.setdefault(index, {})[scale] = file
        else:
            existing.append(file)
    return wanted, existing


def _read(
    synthesizer: Synthesizer, pair: Pair, style: StyleSource | None, keep_size: bool, allow_bare_ids: bool
) -> tuple[Batch, tuple[int, ...]]:
    """Return the input of a label map or source image, and its own height and width."""
    if synthesizer.sampling.condition.source == "images":
        settings = synthesizer.config.data.source
        source = pair.read_source(settings.channels, settings.range)
        return synthesizer.source_batch(source, style=style, keep_size=keep_size), tuple(source.shape[1:])
    ids = read_label_ids(synthesizer, pair, allow_bare_ids)
    return synthesizer.read(ids, instances=pair.instance, style=style, keep_size=keep_size), tuple(ids.shape)


def read_label_ids(synthesizer: Synthesizer, pair: Pair, allow_bare_ids: bool) -> Tensor:
    """Read a label map for a model: `[H, W]` int64 canonical ids.

    Raises:
        DataError, LabelError: unreadable file, other classes, or bare ids that are not allowed.
    """
    space = synthesizer.label_space
    label = pair.decode_label(space, synthesizer.config.data.sketch.lines)
    if not allow_bare_ids and _is_bare(label, space):
        meaning = ", ".join(f"{value} {name}" for value, name in zip(_file_values(space), space.names, strict=False))
        raise BareIdsError(
            f"{pair.label} holds class numbers, and nothing says that they are those of label space '{space.name}' "
            f"({meaning}); if they are, add --label-space {space.name}"
        )
    return label.ids


def has_known_values(model: str | Path, format: str, label_space: LabelSpace) -> bool:
    """Return whether bare ids of label maps are those of a model's label space.

    They are if the model is the user's own run, which was trained on such files, or if the label space is the default
    of the dataset format.
    """
    known = DATASET_FORMATS[format].label_space if format in DATASET_FORMATS else None
    return weights.is_local(model) or known == label_space.name


class BareIdsError(LabelError):
    """A label map whose numbers may be those of another label space."""


def _is_bare(label: LabelMap, space: LabelSpace) -> bool:
    """Return whether a label map was read by numbers, without a palette of the label space's colors."""
    if label.reading == "ids":
        return True
    own = {tuple(color) for color in space.palette.tolist()}
    return label.reading == "palette indices" and not set(label.palette.values()) <= own


def _file_values(space: LabelSpace) -> list[int]:
    """Return the file values of the first classes of a label space."""
    return [int(value) for value in space.encode_values(torch.arange(min(space.num_classes, 4)))]


def _generate_batch(synthesizer: Synthesizer, items: Sequence[_Item], scales: bool, report: GenerateReport) -> None:
    """Generate a batch of images of equal size and write them; a name that cannot be written ends nothing else."""
    batch = Batch.concatenate([item.batch for item in items])
    noise = torch.stack([item.noise for item in items])
    try:
        images = synthesizer.generate_pyramid(batch, noise) if scales else [synthesizer.generate(batch, noise)]
        pictures = [float_to_uint8(image) for image in images]
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"memory ran out with {len(items)} images at once; lower --batch-size or choose --device cpu"
        ) from error
    for place, item in enumerate(items):
        for scale, file in item.files.items():
            try:
                write_picture(file, pictures[scale][place])
            except OutputError as error:
                if getattr(error.__cause__, "errno", None) not in _BAD_NAMES:
                    raise
                report.failed.append((item.label, str(error)))
            else:
                report.written.append(file)


def write_picture(file: Path, picture: Tensor) -> None:
    """Write a `[3, H, W]` uint8 image as PNG, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    advice = "fix this and repeat the command"
    with output_errors(file, advice):
        write_png(file, to_pil(picture))
    _LOG.debug("wrote %s", file)
