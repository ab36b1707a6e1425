"""Makes a user study of folders of pictures: chooses samples, and copies them under names that give no method away."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import lab2pix
from lab2pix.data.files import read_image
from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.evaluation.pairing import pictures_in
from lab2pix.inference.folder import write_picture
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import write_atomically
from lab2pix.web.study_labels import ShowLabel, show_as_they_are, show_classes
from lab2pix.web.study_samples import FORMAT, MAX_METHODS, ClassColor, Sample, Study, in_drawn_order

__all__ = ["MadeStudy", "make_study", "read_methods"]


@dataclass(frozen=True)
class MadeStudy:
    """A new study; printed, it tells the user.

    Attributes:
        folder: where it lies.
        study: what it consists of.
        other_sizes: samples whose methods' pictures differ in size, which participants may notice.
    """

    folder: Path
    study: Study
    other_sizes: int

    def __str__(self) -> str:
        """Return what was made, what was left out, and what to do next."""
        study = self.study
        pool = "" if len(study.pool) == study.samples else f", drawn for each from a pool of {len(study.pool)}"
        lines = [
            f"{self.folder}: each participant ranks {_count(study.samples, 'sample')} of {len(study.methods)} methods"
            f" ({', '.join(study.methods)}){pool}"
        ]
        if study.left_out:
            left = study.left_out
            lines.append(f"{_count(len(left), 'name')} left out that not all folders have: {_listed(left)}")
        if study.label_space is None:
            lines.append("label maps are shown as they are, without a legend; --label-space names and colours classes")
        if self.other_sizes:
            lines.append(
                f"in {_count(self.other_sizes, 'sample')} the methods' pictures differ in size: they are shown equally "
                "large, and the smaller one looks softer"
            )
        lines.append(f"Let people rank with `lab2pix study serve {self.folder}`")
        return "\n".join(lines)


def read_methods(words: Sequence[str]) -> dict[str, Path]:
    """Return the folders of `METHOD=DIR` words, by method.

    Raises:
        ConfigError: a word is something else, two methods share a name, or there are too few or too many.
    """
    methods: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        name = name.strip()
        if not equals or not name or not folder:
            raise ConfigError(f"'{word}' must be METHOD=DIR, a name and a folder of pictures, such as spade=out/spade")
        if not name.isprintable() or len(name) > 60:
            raise ConfigError(f"Method '{name[:60]}' must be named with at most 60 characters that can be shown")
        if name in methods:
            raise ConfigError(f"Two methods are called '{name}'; give each a name of its own")
        methods[name] = Path(folder)
    _check_methods(methods)
    return methods


def make_study(
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
) -> MadeStudy:
    """Make a study of folders whose files have the same names, whatever their suffixes.

    Everything is decoded and written anew as PNG, so that neither names nor forms of files tell whose they are.

    Args:
        labels: folder of the label maps.
        label_space: their classes, and the colours that they are shown in; None: they are shown as they are.
        methods: folder of each method's pictures, by the method's name.
        out: the study's folder, new or empty.
        truth: folder of the true pictures.
        samples: how many each participant ranks.
        pool: how many samples each participant's are drawn from; None: all see the same ones.
        seed: decides which samples are chosen, and who sees what in which order.
        allow_missing: leave out names that not all folders have, instead of refusing.
        on_progress: called with the samples done and their number.

    Raises:
        ConfigError: fewer than two methods or more than nine, or fewer in the pool than each shall rank.
        DataError: a folder is missing or empty; names that not all have; fewer than asked for; a file cannot be read.
        LabelError: a label map does not fit the label space.
        OutputError: `out` holds something already, or cannot be written.
    """
    out, folders = Path(out), {name: Path(folder) for name, folder in methods.items()}
    _check_methods(folders)
    pool = samples if pool is None else pool
    if samples < 1 or pool < samples:
        raise ConfigError(f"--pool is {pool}, but each participant shall rank {samples}; raise it or lower --samples")
    places = {"label maps": Path(labels), **({"true pictures": Path(truth)} if truth is not None else {})}
    places |= {f"pictures of '{name}'": folder for name, folder in folders.items()}
    files = {what: _named(folder, what) for what, folder in places.items()}
    common, left_out = _match(files, places, allow_missing)
    if len(common) < pool:
        raise DataError(
            f"All folders share {_count(len(common), 'name')}, but {pool} are asked for; lower --samples and --pool "
            f"to {len(common)} at most"
        )
    chosen = in_drawn_order(common, seed, "pool")[:pool]
    new = not out.exists()
    _check_place(out, list(places.values()))
    if label_space is None:
        show = show_as_they_are(files["label maps"][name] for name in chosen)
    else:
        show = show_classes(label_space)
    try:
        out.mkdir(parents=True, exist_ok=True)
        made, sizes = [], []
        for done, name in enumerate(chosen):
            if on_progress is not None:
                on_progress(done, len(chosen))
            sample, alike = _copy(name, [named[name] for named in files.values()], show, list(folders), out)
            made.append(sample)
            sizes.append(alike)
        study = Study(
            format=FORMAT,
            lab2pix=lab2pix.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=seed,
            samples=samples,
            methods=list(folders),
            label_space=None if label_space is None else label_space.name,
            classes=[] if label_space is None else _classes(label_space),
            pool=made,
            left_out=left_out,
        )
        write_atomically(out / "study.json", study.model_dump_json(indent=1) + "\n")
    except BaseException:
        shutil.rmtree(out / "pictures", ignore_errors=True)
        if new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    return MadeStudy(out, study, sizes.count(False))


def _check_methods(methods: Mapping[str, Path]) -> None:
    """Refuse what cannot be compared: one method, more than there are keys for ranks, one folder twice."""
    if not 2 <= len(methods) <= MAX_METHODS:
        raise ConfigError(f"A study compares 2 to {MAX_METHODS} methods, METHOD=DIR each, but has {len(methods)}")
    seen: dict[Path, str] = {}
    for name, folder in methods.items():
        other = seen.setdefault(folder.resolve(), name)
        if other != name:
            raise ConfigError(f"Methods '{other}' and '{name}' have the same folder {folder}; give each its own")


def _named(folder: Path, what: str) -> dict[str, Path]:
    """Return the pictures of a folder by name, all of which can be shown."""
    files = pictures_in(folder, what)
    hidden = next((name for name in files if not name.isprintable()), None)
    if hidden is not None:
        raise DataError(f"{folder} holds a file whose name cannot be shown ({hidden!r}); rename it")
    return files


def _match(
    files: Mapping[str, Mapping[str, Path]], places: Mapping[str, Path], allow_missing: bool
) -> tuple[list[str], list[str]]:
    """Return the names that all folders have, and those that some lack.

    Raises:
        DataError: some lack names and that is not allowed, or they share none.
    """
    every = set[str]().union(*files.values())
    common = every.intersection(*files.values())
    lacking = {what: sorted(every - set(named)) for what, named in files.items() if set(named) != every}
    if lacking and not allow_missing:
        what, names = next(iter(lacking.items()))
        others = f", and so it is with {_count(len(lacking) - 1, 'other folder')}" if len(lacking) > 1 else ""
        raise DataError(
            f"{places[what]} ({what}) lacks {_listed(names)}{others}; add the files, or leave out what is not "
            "everywhere with --allow-missing"
        )
    return sorted(common), sorted(every - common)


def _check_place(out: Path, sources: Sequence[Path]) -> None:
    """Refuse a folder that holds something, or where the study's pictures would be taken for others."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} holds something already; give --out a new or empty folder")
    inside = next((source for source in sources if out.resolve().is_relative_to(source.resolve())), None)
    if inside is not None:
        raise OutputError(f"{out} lies inside {inside}, whose pictures it would mix with; choose another --out")


def _copy(name: str, files: Sequence[Path], show: ShowLabel, methods: Sequence[str], out: Path) -> tuple[Sample, bool]:
    """Write a sample's pictures; return it, and whether the methods' are all of one size.

    Args:
        name: the sample's.
        files: its label map, its true picture if any, and one picture per method, in this order.
        show: turns the label map into a picture.
        methods: their names.
        out: the study's folder.
    """
    label = show(files[0])
    pictures = [label.picture, *(read_image(file) for file in files[1:])]
    tokens = [secrets.token_hex(8) for _ in pictures]
    for token, picture in zip(tokens, pictures, strict=True):
        write_picture(out / "pictures" / f"{token}.png", picture)
    of_methods = len(pictures) - len(methods)
    sample = Sample(
        name=name,
        label=tokens[0],
        truth=tokens[1] if of_methods > 1 else None,
        pictures=dict(zip(methods, tokens[of_methods:], strict=True)),
        size=list(label.picture.shape[1:]),
        classes=label.classes,
    )
    return sample, len({picture.shape for picture in pictures[of_methods:]}) == 1


def _classes(label_space: LabelSpace) -> list[ClassColor]:
    names = [*label_space.names, *([] if label_space.unknown_value is None else ["unknown"])]
    colors = label_space.palette.tolist()
    return [ClassColor(name=name, color=color) for name, color in zip(names, colors, strict=True)]


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    """Name the first few."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
