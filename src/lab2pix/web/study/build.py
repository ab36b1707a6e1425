"""Builds a user study from folders of images: chooses samples, and copies them under anonymous names."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import lab2pix
from lab2pix.data.files import read_image
from lab2pix.data.passed_over import likely_partners
from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.evaluation.pairing import count_samples, pictures_in
from lab2pix.inference.folder import write_picture
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import expand_user, write_atomically
from lab2pix.utils.text import first_few, plural
from lab2pix.web.study.labels import LabelRenderer, render_classes, render_raw_labels
from lab2pix.web.study.samples import FORMAT, MAX_METHODS, ClassColor, Sample, Study, seeded_shuffle


@dataclass(frozen=True)
class BuiltStudy:
    """A new study; its string is a summary for the user.

    Attributes:
        folder: its folder.
        study: its contents.
        mixed_sizes: number of samples whose images differ in size, which participants may notice.
        first_of: methods with several images per label map, with their number; the first one is shown.
    """

    folder: Path
    study: Study
    mixed_sizes: int
    first_of: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return what was built, what was left out, and what to do next."""
        study = self.study
        pool = "" if len(study.pool) == study.samples else f", chosen for each from a pool of {len(study.pool)}"
        lines = [
            f"{self.folder}: each participant ranks {plural(study.samples, 'sample')} of {len(study.methods)} methods"
            f" ({', '.join(study.methods)}){pool}"
        ]
        if study.left_out:
            names = first_few(study.left_out, 5)
            lines.append(f"{plural(len(study.left_out), 'name')} left out because a folder lacks it: {names}")
        for method, count in self.first_of.items():
            lines.append(f"'{method}' has {count} images per label map, of which the first, NAME_0, is shown")
        if study.label_space is None:
            lines.append("label maps are shown as they are, without a legend; --label-space adds colors and a legend")
        if self.mixed_sizes:
            lines.append(
                f"in {plural(self.mixed_sizes, 'sample')} the methods' images differ in size; they are shown at the "
                "same size, so smaller ones look softer"
            )
        lines.append(f"Collect rankings with `lab2pix study serve {self.folder}`")
        return "\n".join(lines)


def parse_methods(words: Sequence[str]) -> dict[str, Path]:
    """Return the folders of `METHOD=DIR` arguments by method.

    Raises:
        ConfigError: an argument has another form, two methods share a name, or there are too few or too many.
    """
    methods: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        name = name.strip()
        if not equals or not name or not folder:
            raise ConfigError(f"'{word}' must be METHOD=DIR, a name and a folder of images, such as spade=out/spade")
        if not name.isprintable() or len(name) > 60:
            raise ConfigError(f"The name of method '{name[:60]}' must have at most 60 characters, all printable")
        if name in methods:
            raise ConfigError(f"Two methods are called '{name}'; use different names")
        methods[name] = expand_user(folder)
    _check_methods(methods)
    return methods


def build_study(
    labels: Path | str,
    label_space: LabelSpace | None,
    methods: Mapping[str, Path | str],
    out: Path | str,
    *,
    truth: Path | str | None = None,
    samples: int = 100,
    pool: int | None = None,
    seed: int = 0,
    allow_missing: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> BuiltStudy:
    """Build a study from folders whose files match by name without suffix.

    All files are decoded and encoded as PNG, so that neither name nor format reveals the method.

    Args:
        labels: folder of the label maps.
        label_space: their label space, which gives colors and a legend; None shows label maps as they are.
        methods: folder of each method's images, by method name.
        out: folder of the study, new or empty.
        truth: folder of the real images.
        samples: number of samples per participant.
        pool: number of samples from which each participant's are chosen; None shows all the same ones.
        seed: determines the chosen samples and the orders in which participants see them.
        allow_missing: leave out names that a folder lacks instead of raising an error.
        on_progress: called with the number of finished samples and their total.

    Raises:
        ConfigError: the number of methods is not 2 to 9, or the pool is smaller than the number of samples.
        DataError: a folder is missing or empty, names do not match or are too few, or a file cannot be read.
        LabelError: a label map does not fit the label space.
        OutputError: `out` is not empty or cannot be written.
    """
    out, folders = Path(out), {name: Path(folder) for name, folder in methods.items()}
    _check_methods(folders)
    pool = samples if pool is None else pool
    if samples < 1 or pool < samples:
        raise ConfigError(f"--pool is {pool}, but each participant ranks {samples}; raise it or lower --count")
    sources = {"label maps": Path(labels), **({"real images": Path(truth)} if truth is not None else {})}
    sources |= {f"images of '{name}'": folder for name, folder in folders.items()}
    files = {what: _find_images(folder, what) for what, folder in sources.items()}
    first_of = _keep_first_samples(files, [f"images of '{name}'" for name in folders])
    common, left_out = _match_names(files, sources, allow_missing)
    if len(common) < pool:
        raise DataError(
            f"The folders share {plural(len(common), 'name')}, but {pool} are requested; lower --count and --pool "
            f"to at most {len(common)}"
        )
    chosen = seeded_shuffle(common, seed, "pool")[:pool]
    is_new = not out.exists()
    _check_out(out, list(sources.values()))
    if label_space is None:
        render = render_raw_labels(files["label maps"][name] for name in chosen)
    else:
        render = render_classes(label_space)
    try:
        out.mkdir(parents=True, exist_ok=True)
        copied, mixed_sizes = [], 0
        for done, name in enumerate(chosen):
            if on_progress is not None:
                on_progress(done, len(chosen))
            sample, same_size = _copy(name, [found[name] for found in files.values()], render, list(folders), out)
            copied.append(sample)
            mixed_sizes += not same_size
        study = Study(
            format=FORMAT,
            lab2pix=lab2pix.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=seed,
            samples=samples,
            methods=list(folders),
            label_space=None if label_space is None else label_space.name,
            classes=[] if label_space is None else _classes(label_space),
            pool=copied,
            left_out=left_out,
        )
        write_atomically(out / "study.json", study.model_dump_json(indent=1) + "\n")
    except BaseException:
        shutil.rmtree(out / "images", ignore_errors=True)
        if is_new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    counts = {name: first_of[f"images of '{name}'"] for name in folders if f"images of '{name}'" in first_of}
    return BuiltStudy(out, study, mixed_sizes, counts)


def _check_methods(methods: Mapping[str, Path]) -> None:
    if not 2 <= len(methods) <= MAX_METHODS:
        raise ConfigError(f"A study compares 2 to {MAX_METHODS} methods, METHOD=DIR each, but {len(methods)} are given")
    seen: dict[Path, str] = {}
    for name, folder in methods.items():
        other = seen.setdefault(folder.resolve(), name)
        if other != name:
            raise ConfigError(f"Methods '{other}' and '{name}' have the same folder {folder}; give each its own")


def _find_images(folder: Path, what: str) -> dict[str, Path]:
    """Return the images of a folder by name."""
    files = pictures_in(folder, what)
    unprintable = next((name for name in files if not name.isprintable()), None)
    if unprintable is not None:
        raise DataError(f"{folder} contains a file whose name cannot be shown ({unprintable!r}); rename it")
    return files


def _keep_first_samples(files: dict[str, dict[str, Path]], methods: Sequence[str]) -> dict[str, int]:
    """Reduce images named NAME_0, NAME_1, ... of label maps NAME to the first of each, in place.

    Returns:
        The number of samples by method, for those that have several.
    """
    labels, counts = files["label maps"], {}
    for what in methods:
        if (count := count_samples(files[what], labels)) > 1:
            counts[what] = count
            files[what] = {name: files[what][f"{name}_0"] for name in labels if f"{name}_0" in files[what]}
    return counts


def _match_names(
    files: Mapping[str, Mapping[str, Path]], sources: Mapping[str, Path], allow_missing: bool
) -> tuple[list[str], list[str]]:
    """Return the names that all folders have, and those that a folder lacks.

    Raises:
        DataError: a folder lacks names and that is not allowed.
    """
    union = set[str]().union(*files.values())
    common = union.intersection(*files.values())
    missing = {what: sorted(union - set(found)) for what, found in files.items() if set(found) != union}
    if missing and not allow_missing:
        what, names = next(iter(missing.items()))
        near: list[str] = []
        for other, found in files.items():
            lonely = sorted(set(found) - set(files[what])), sorted(set(files[what]) - set(found))
            near += likely_partners(*lonely, sides=(other, what))
        others = f", and {plural(len(missing) - 1, 'other folder')} lack names too" if len(missing) > 1 else ""
        raise DataError(
            f"{sources[what]} ({what}) lacks {first_few(names, 5)}{others}; add the files, or leave such names out "
            f"with --allow-missing{''.join(f'; {hint}' for hint in near[:1])}"
        )
    return sorted(common), sorted(union - common)


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    """Refuse a folder that is not empty, or is part of a source folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is not empty; choose a new or empty folder for --out")
    parent = next((source for source in sources if out.resolve().is_relative_to(source.resolve())), None)
    if parent is not None:
        raise OutputError(f"{out} is inside {parent}, which would mix their images; choose another --out")


def _copy(
    name: str, files: Sequence[Path], render: LabelRenderer, methods: Sequence[str], out: Path
) -> tuple[Sample, bool]:
    """Write a sample's images; return the sample, and whether all generated images have the same size.

    `files` are its label map, its real image if any, and one image per method, in this order.
    """
    label = render(files[0])
    images = [label.image, *(read_image(file, "white") for file in files[1:])]
    tokens = [secrets.token_hex(8) for _ in images]
    for token, image in zip(tokens, images, strict=True):
        write_picture(out / "images" / f"{token}.png", image)
    first = len(images) - len(methods)
    sample = Sample(
        name=name,
        label=tokens[0],
        truth=tokens[1] if first > 1 else None,
        images=dict(zip(methods, tokens[first:], strict=True)),
        size=list(label.image.shape[1:]),
        classes=label.classes,
    )
    return sample, len({image.shape for image in images[first:]}) == 1


def _classes(label_space: LabelSpace) -> list[ClassColor]:
    names = [*label_space.names, *([] if label_space.unknown_value is None else ["unknown"])]
    colors = label_space.palette.tolist()
    return [ClassColor(name=name, color=color) for name, color in zip(names, colors, strict=True)]
