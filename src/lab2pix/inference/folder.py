"""Generation of images for whole folders of label maps; each file is written atomically."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.formats import find_pairs
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.errors import ConfigError, Lab2PixError, LabelError, OutputError, TrainingError
from lab2pix.inference import weights
from lab2pix.inference.output_files import check_outputs, output_suffixes, select_files
from lab2pix.inference.synthesizer import StyleSource, Synthesizer
from lab2pix.labels.decoding import LabelMap
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import expand_user, output_errors, write_png
from lab2pix.utils.registry import DATASET_FORMATS
from lab2pix.utils.text import describe_failures, plural

_LOG = logging.getLogger(__name__)

Engine = Literal["local", "ray"]
"""What runs the generation of a folder: this process, or a Ray cluster."""


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
    engine: Engine = "local",
    workers: int | None = None,
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
        engine: `local`: this process; `ray`: a Ray cluster, see `lab2pix.inference.cluster`, whose machines share the
            folders.
        workers: largest number of Ray's actors; None: as many as the cluster has GPUs, or else processors.
        on_progress: called with the number of finished label maps and their total.

    Returns:
        The written, skipped and failed files.

    Raises:
        ConfigError: several samples from a generator without noise, scales from a generator with one output size, or a
            style image that the generator does not take, or lacks; or `ray` under torchrun or without its extra.
        LabelError: a label map holds bare ids, and `allow_bare_ids` is false.
        DataError: no label maps, an unreadable style image, or two label maps with the same output file.
        OutputError: images would be written among the label maps, or cannot be written.
    """
    synthesizer = model if isinstance(model, Synthesizer) else Synthesizer(model)
    sources = [expand_user(source) for source in ([labels] if isinstance(labels, str | Path) else labels)]
    out = expand_user(out)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if engine == "ray":
        if world > 1:
            raise ConfigError("--engine ray distributes the label maps itself; leave out torchrun")
        sources, out = [source.absolute() for source in sources], out.absolute()
    listed = [find_pairs(format, source, split, need_images=False) for source in sources]
    pairs: Sequence[Pair] = listed[0] if len(listed) == 1 else [pair for some in listed for pair in some]

    noise = partial(_noise, seed=seed, samples=samples, interpolate=interpolate, steps=steps)
    count = len(noise(synthesizer, synthesizer.size))
    if scales:
        synthesizer.require_scales()
    resized = synthesizer.read_style(style)
    style = style if resized is None or keep_size else resized[0]
    suffixes = output_suffixes(count, interpolate is not None, scales)
    check_outputs(sources, out, pairs, suffixes)
    work = partial(
        _generate_pairs,
        out=out,
        noise=noise,
        suffixes=suffixes,
        overwrite=overwrite,
        batch_size=batch_size,
        keep_size=keep_size,
        style=style,
        allow_bare_ids=allow_bare_ids,
        single=len(sources) == 1 and sources[0].is_file(),
    )
    if engine == "ray":
        files = [select_files(out, pair.name, suffixes, overwrite) for pair in pairs]
        missing = [pair for pair, (wanted, _) in zip(pairs, files, strict=True) if wanted]
        report = GenerateReport(out, skipped=[file for _, existing in files for file in existing])
        return _generate_on_ray(synthesizer, missing, work, report, batch_size, workers, on_progress)
    return work(synthesizer, pairs[rank::world], on_progress=on_progress)


def _generate_pairs(
    synthesizer: Synthesizer,
    pairs: Sequence[Pair],
    *,
    out: Path,
    noise: Callable[[Synthesizer, tuple[int, int]], Tensor],
    suffixes: Sequence[Sequence[str]],
    overwrite: bool,
    batch_size: int,
    keep_size: bool,
    style: StyleSource | None,
    allow_bare_ids: bool,
    single: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> GenerateReport:
    """Generate the missing images of label maps; see `generate_folder`.

    `noise` returns the noise of the images of a label map of a size, one row per image; `suffixes` are those of
    `output_suffixes`; `single` raises the error of a label map instead of reporting it.
    """
    report, noise = GenerateReport(out), cache(partial(noise, synthesizer))
    pending: list[_Item] = []
    for done, pair in enumerate(pairs):
        if on_progress is not None:
            on_progress(done, len(pairs))
        wanted, existing = select_files(out, pair.name, suffixes, overwrite)
        report.skipped += existing
        if not wanted:
            continue
        try:
            batch, input_size = _read(synthesizer, pair, style, keep_size, allow_bare_ids)
        except BareIdsError:
            raise
        except Lab2PixError as error:
            if single:
                raise
            report.failed.append((pair.label, str(error)))
            continue
        report.resized.update([synthesizer.size] if input_size != synthesizer.size and not keep_size else [])
        for index, files in wanted.items():
            item = _Item(pair.label, batch, noise(batch.size)[index], files)
            if pending and pending[0].batch.size != batch.size:
                _generate_batch(synthesizer, pending, report)
                pending = []
            pending.append(item)
            if len(pending) == batch_size:
                _generate_batch(synthesizer, pending, report)
                pending = []
    if pending:
        _generate_batch(synthesizer, pending, report)
    if on_progress is not None:
        on_progress(len(pairs), len(pairs))
    return report


def _generate_on_ray(
    synthesizer: Synthesizer,
    pairs: Sequence[Pair],
    work: Callable[[Synthesizer, Sequence[Pair]], GenerateReport],
    report: GenerateReport,
    chunk_size: int,
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> GenerateReport:
    """Generate on a Ray cluster; label maps that failed are tried once more, as another machine may read them."""
    from lab2pix.inference.cluster import map_on_ray

    existing, done, total = set(report.skipped), 0, len(pairs)
    for _ in range(2):
        report.failed, chunks = [], [pairs[start : start + chunk_size] for start in range(0, len(pairs), chunk_size)]
        for index, part in map_on_ray(synthesizer, work, chunks, workers):
            # An actor that died wrote files, which its successor skipped.
            report.written += [*part.written, *(file for file in part.skipped if file not in existing)]
            report.failed += part.failed
            report.resized.update(part.resized)
            done += len(chunks[index]) - len(part.failed)
            if on_progress is not None:
                on_progress(done, total)
        failed = {label for label, _ in report.failed}
        pairs = [pair for pair in pairs if pair.label in failed]
        if not pairs:
            break
    return report


def _noise(
    synthesizer: Synthesizer,
    size: tuple[int, int],
    *,
    seed: int,
    samples: int,
    interpolate: tuple[int, int] | None,
    steps: int,
) -> Tensor:
    """Return the noise of the images of a label map, one row per image."""
    if interpolate is not None:
        return synthesizer.interpolate_noise(*interpolate, steps, size)
    return synthesizer.noise_samples(seed, samples, size)


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


def _generate_batch(synthesizer: Synthesizer, items: Sequence[_Item], report: GenerateReport) -> None:
    """Generate a batch of images of equal size and write them; a name that cannot be written ends nothing else."""
    batch = Batch.concatenate([item.batch for item in items])
    noise = torch.stack([item.noise for item in items])
    scales = any(scale for item in items for scale in item.files)
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
                if all(label != item.label for label, _ in report.failed):  # of several samples
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
