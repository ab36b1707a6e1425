"""Label maps of photos: a folder of photographs becomes a dataset in format `folder` by semantic segmentation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from lab2pix.data.files import list_images, read_image
from lab2pix.data.label_maps import write_label_png
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import resize_image, resize_nearest, to_luma
from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.inference.label_classes import ClassMapping
from lab2pix.inference.label_refinement import guided_filter, merge_small_regions
from lab2pix.utils.files import atomic_write, claim_folder, output_errors, read_json_lines, write_atomically
from lab2pix.utils.seeding import content_seed
from lab2pix.utils.text import describe_failures, plural

SETTINGS_FILE, RECORDS_FILE, CLASSES_FILE = "labeling.json", "labeling.jsonl", "classes.yaml"
_ADVICE = "the same command goes on with the other photos"


@dataclass(frozen=True)
class LabelSettings:
    """How photos are labeled.

    Attributes:
        threshold: pixels whose most probable class has less than this probability become unknown.
        least_region: regions of fewer pixels, at the size of the photo, are given to their neighbors; 0: none.
        snap: radius of the filter that moves edges to those of the photo, in thousandths of its longest side; 0: off.
        longest_side: photos are segmented at most at this size, in pixels; label maps have the size of the photo.
        val_share: share of the photos in split `val`.
    """

    threshold: float = 0.5
    least_region: int = 64
    snap: float = 6.0
    longest_side: int = 1024
    val_share: float = 0.1


@dataclass(frozen=True)
class LabeledPhoto:
    """Record of one label map.

    Attributes:
        name: path in its split, without suffix.
        split: `train` or `val`.
        photo: copied photo, below the output folder.
        certainty: mean probability of the class of each pixel.
        shares: share of the pixels by class name, unknown among them.
    """

    name: str
    split: str
    photo: str
    certainty: float
    shares: dict[str, float]

    @property
    def title(self) -> str:
        """Name, and how sure the segmenter was unless it cannot be unsure."""
        return self.name if self.certainty == 1 else f"{self.name}: {self.certainty:.0%} sure"

    @property
    def label(self) -> str:
        """Label map, below the output folder."""
        return f"labels/{self.split}/{self.name}.png"


@dataclass
class LabelReport:
    """Result of labeling a folder.

    Attributes:
        out: the dataset.
        photos: records of all label maps, the most doubtful first.
        written: label maps written now.
        failed: photos that could not be used, with the reason.
    """

    out: Path
    photos: list[LabeledPhoto]
    written: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every photo was labeled."""
        return not self.failed

    def doubtful_pairs(self, count: int) -> list[Pair]:
        """Return the most doubtful photos with their label maps, for a contact sheet."""
        return [Pair(photo.title, self.out / photo.label, self.out / photo.photo) for photo in self.photos[:count]]

    def shares(self) -> dict[str, float]:
        """Return the mean share of each class, the largest first."""
        total: dict[str, float] = {}
        for photo in self.photos:
            for name, share in photo.shares.items():
                total[name] = total.get(name, 0.0) + share / len(self.photos)
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def __str__(self) -> str:
        """Return a line of counts, the shares of classes, and a line per failed photo."""
        lines = [f"{plural(self.written, 'label map')} written to {self.out}"]
        if len(self.photos) > self.written:
            lines[0] += f", {len(self.photos) - self.written} were there already"
        lines.append("pixels: " + ", ".join(f"{name} {share:.1%}" for name, share in self.shares().items()))
        return "\n".join([*lines, *describe_failures(self.failed, "photo")])


def label_photos(
    photos: Path,
    out: Path,
    segmenter: Segmenter,
    mapping: ClassMapping,
    settings: LabelSettings | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> LabelReport:
    """Write a dataset in format `folder` from photos: copies of the photos, label maps, label space and records.

    A photo `a/b.jpg` becomes `OUT/images/SPLIT/a/b.jpg` with `OUT/labels/SPLIT/a/b.png`; the split depends on the name
    alone. `OUT/classes.yaml` is the label space. A second run continues the first, and changes no file.

    Args:
        photos: folder of photos; sub-folders count.
        out: folder of the dataset.
        segmenter: a segmenter with its own classes.
        mapping: what becomes of its classes.
        settings: how photos are labeled.
        on_progress: called with the number of finished photos and their total.

    Raises:
        ConfigError: the extra `label` is not installed.
        DataError: there is no photo.
        OutputError: `out` is or holds the folder of the photos, was made with other settings, or cannot be written.
    """
    settings = settings or LabelSettings()
    found = [Path(stem + suffix) for stem, suffix in list_images(photos)]
    if not found:
        raise DataError(f"there are no photos in {photos}; give a folder of JPEG or PNG files")
    counts = Counter(path.with_suffix("") for path in found)
    for path in found:
        if counts[path.with_suffix("")] > 1:
            raise DataError(f"{photos / path} shares its name with another photo; rename one of them")
    if out.resolve() == photos.resolve() or out.resolve() in photos.resolve().parents:
        raise OutputError(f"{out} holds the photos themselves; choose another folder for the label maps")
    with output_errors(out, _ADVICE):
        _check_settings(out, segmenter, mapping, settings)
        records = {photo.name: photo for photo in read_records(out)}
    report = LabelReport(out, [])
    splits = _splits(found, settings.val_share)
    for number, path in enumerate(found):
        name = path.with_suffix("").as_posix()
        record = records.get(name)
        if record is None or not (out / record.label).exists():
            try:
                record = _label(photos / path, path, splits[path], out, segmenter, mapping, settings)
                report.written += 1
            except DataError as error:
                report.failed.append((photos / path, str(error)))
        if record is not None:
            report.photos.append(record)
        if on_progress is not None:
            on_progress(number + 1, len(found))
    report.photos.sort(key=lambda photo: (photo.certainty, photo.name))
    return report


def read_records(out: Path) -> Iterator[LabeledPhoto]:
    """Yield the records of a dataset that `label_photos` wrote."""
    return (LabeledPhoto(**line) for line in read_json_lines(out / RECORDS_FILE))


def _check_settings(out: Path, segmenter: Segmenter, mapping: ClassMapping, settings: LabelSettings) -> None:
    """Write settings and label space, or compare them with those of the run that this one continues."""
    given = {
        "segmenter": segmenter.describe(),
        "classes": mapping.space.to_dict(),
        "from": mapping.table.tolist(),
        **asdict(settings),
    }
    if claim_folder(out, SETTINGS_FILE, given, "labeled"):
        write_atomically(out / CLASSES_FILE, yaml.safe_dump(mapping.space.to_dict(), sort_keys=False))
        write_atomically(out / SETTINGS_FILE, json.dumps(given, indent=2) + "\n")


def _splits(paths: list[Path], share: float) -> dict[Path, str]:
    """Return the split of each photo: `val` for a share by a hash of the name, and for at least one of several."""
    values = {path: _fraction(path.with_suffix("").as_posix()) for path in paths}
    bound = max(share, min(values.values())) if share and len(paths) > 1 else share
    return {path: "val" if share and (value < share or value == bound) else "train" for path, value in values.items()}


def _fraction(name: str) -> float:
    return content_seed(name.encode()) / 2**63


def _label(
    source: Path,
    path: Path,
    split: str,
    out: Path,
    segmenter: Segmenter,
    mapping: ClassMapping,
    settings: LabelSettings,
) -> LabeledPhoto:
    """Label one photo: write its copy, its label map, and the record, in this order."""
    ids, certainty = predict(read_image(source), segmenter, mapping, settings)
    names = [*mapping.space.names, "unknown"]
    counts = torch.bincount(ids.flatten(), minlength=len(names)) / ids.numel()
    shares = {name: round(float(share), 5) for name, share in zip(names, counts, strict=True) if share}
    photo = f"images/{split}/{path.as_posix()}"
    record = LabeledPhoto(path.with_suffix("").as_posix(), split, photo, round(certainty, 4), shares)
    image = out / photo
    with output_errors(out, _ADVICE):
        if not image.exists():
            with atomic_write(image, sync=False) as [unfinished]:
                unfinished.write_bytes(source.read_bytes())
        with atomic_write(out / record.label, sync=False) as [unfinished]:
            write_label_png(unfinished, ids, mapping.space)
        with (out / RECORDS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
    return record


def predict(
    photo: Tensor, segmenter: Segmenter, mapping: ClassMapping, settings: LabelSettings
) -> tuple[Tensor, float]:
    """Return the label map `[H, W]` int64 of a photo `[3, H, W]` uint8, and the mean probability of its classes."""
    height, width = photo.shape[-2:]
    scale = min(1.0, settings.longest_side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = photo if scale == 1 else resize_image(photo, size)
    own = segmenter.logits(small[None]).softmax(1)[:, segmenter.ids >= 0]
    merged = mapping.merge(own[0].cpu())
    probabilities = F.interpolate(merged[None], size, mode="bilinear", align_corners=False)[0]
    guide = to_luma(small.float() / 255)
    radius = round(settings.snap / 1000 * max(size)) if settings.snap else 0
    probabilities = guided_filter(probabilities, guide, radius)
    values, ids = probabilities.max(0)
    ids = ids.where(values >= settings.threshold, mapping.space.num_classes)
    ids = merge_small_regions(ids, round(settings.least_region * scale**2))
    return resize_nearest(ids, (height, width)), float(values.clamp(0, 1).mean())
