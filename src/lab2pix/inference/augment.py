"""Synthetic training data: label maps become a dataset of generated images with varied layouts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.formats import find_pairs
from lab2pix.data.label_maps import read_instances, write_label_png
from lab2pix.data.layouts import Layout, vary_layout
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import float_to_uint8
from lab2pix.errors import ConfigError, Lab2PixError, OutputError
from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.inference.augment_report import AugmentedImage, AugmentReport, AugmentSettings
from lab2pix.inference.folder import BareIdsError, read_label_ids, write_picture
from lab2pix.inference.label_agreement import (
    ClassDifficulty,
    agreeing_pixels,
    label_loss,
    map_difficulty,
    resample,
)
from lab2pix.inference.photo_distance import PhotoDistance
from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.distributed import DistributedContext
from lab2pix.utils.files import atomic_write, claim_folder, output_errors, read_json_lines, write_atomically
from lab2pix.utils.seeding import seeded_generator, stable_seed
from lab2pix.utils.sequences import evenly_spaced

SETTINGS_FILE, MANIFEST, CLASSES_FILE = "augment.json", "manifest.jsonl", "classes.yaml"
SPLIT = "train"
_PARTS = "manifest-*.part"
_CALIBRATION = 200  # label maps whose images measure the difficulty of classes
_ADVICE = "the same command goes on with the other images"


@dataclass(frozen=True)
class _Item:
    """One image to make: its label map and the number among the images of that."""

    pair: Pair
    number: int

    @property
    def name(self) -> str:
        return f"{self.pair.name}_{self.number}"


class Augmenter:
    """Makes the images of one dataset.

    Args:
        synthesizer: the model.
        pairs: the label maps.
        settings: how they are augmented.
        segmenter: segmenter of the model's label space, which filters pixels and images; None: no filter.
        distance: distance to photos, which drops images; None: none is dropped for it.
        allow_bare_ids: see `lab2pix.inference.folder.generate_folder`.

    Attributes:
        space: label space of the new label maps: that of the model, with unknown.
        run: the model: its name, training step and a hash of its weights.
        difficulty: mean loss of each class, `[K]` float64; see `measure`.

    Raises:
        ConfigError: the model generates from images, or needs style images.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        pairs: Sequence[Pair],
        settings: AugmentSettings,
        *,
        segmenter: Segmenter | None = None,
        distance: PhotoDistance | None = None,
        allow_bare_ids: bool = True,
    ) -> None:
        name = synthesizer.config.name
        if synthesizer.sampling.condition.source == "images" or synthesizer.sampling.style == "required":
            raise ConfigError(f"{name} needs images as its input, not label maps alone; give a model without them")
        self.synthesizer, self.pairs, self.settings = synthesizer, pairs, settings
        self.segmenter, self.distance, self.allow_bare_ids = segmenter, distance, allow_bare_ids
        self.space = with_unknown(synthesizer.label_space)
        self.run = f"{name}, step {synthesizer.step}, {_weights_hash(synthesizer)}"
        self.difficulty: Tensor | None = None

    def describe(self) -> dict[str, Any]:
        """Return everything that determines the files, JSON-serializable."""
        names = hashlib.sha256("\n".join(pair.name for pair in self.pairs).encode("utf-8", "surrogateescape"))
        return {
            "run": self.run,
            "classes": self.space.to_dict(),
            "label_maps": names.hexdigest()[:16],
            "segmenter": None if self.segmenter is None else self.segmenter.describe(),
            "features": None if self.distance is None else self.distance.network.describe(),
            "photos": None if self.distance is None else round(self.distance.unit, 6),
            **asdict(self.settings),
        }

    # --- which images ---------------------------------------------------------------------------------------------

    def measure(self) -> list[float] | None:
        """Measure the difficulty of the classes on the first image of some label maps; None without a segmenter."""
        if self.segmenter is None:
            return None
        difficulty = ClassDifficulty(self.space.num_classes)
        for item in (_Item(self.pairs[place], 0) for place in evenly_spaced(len(self.pairs), _CALIBRATION)):
            try:
                layout, _ = self._layout(item)
            except BareIdsError:
                raise
            except Lab2PixError:  # it is reported when its images are made
                continue
            [image] = self._generate([item], [layout])
            difficulty.update(label_loss(self.segmenter, image, layout.ids, self.space), layout.ids)
        return [float(value) for value in difficulty.means()]

    def plan(self) -> list[int]:
        """Return the number of images of each label map."""
        samples, strength = self.settings.samples, self.settings.resample
        if self.difficulty is None or not strength:
            return [samples] * len(self.pairs)
        difficulties = []
        for pair in self.pairs:
            try:
                difficulties.append(map_difficulty(read_label_ids(self.synthesizer, pair, True), self.difficulty))
            except Lab2PixError:  # it is reported when its images are made
                difficulties.append(0.0)
        return resample(difficulties, samples, strength)

    # --- images ---------------------------------------------------------------------------------------------------

    def make(self, items: Sequence[_Item], out: Path, report: AugmentReport) -> Iterator[AugmentedImage]:
        """Make the images of a batch, and write those that are kept; yield a line of the manifest for each.

        The result does not depend on earlier batches.
        """
        usable, layouts, done = [], [], []
        for item in items:
            try:
                layout, how = self._layout(item)
            except BareIdsError:
                raise
            except Lab2PixError as error:
                if (failure := (item.pair.label, str(error))) not in report.failed:
                    report.failed.append(failure)
                continue
            usable.append(item)
            layouts.append(layout)
            done.append(how)
        images = self._generate(usable, layouts) if usable else torch.empty(0)
        for item, layout, how, image in zip(usable, layouts, done, images, strict=True):
            ids, agreement = self._filter(image, layout.ids)
            distance = None if self.distance is None else round(self.distance(image), 4)
            kept = (agreement is None or agreement >= self.settings.least_agreement) and (
                distance is None or distance <= self.settings.max_distance
            )
            if kept:
                self._write(out, item.name, image, Layout(ids, layout.instances))
                report.written += 1
            yield AugmentedImage(item.name, item.pair.name, self._seed(item), self.run, how, kept, agreement, distance)

    def _seed(self, item: _Item) -> int:
        return stable_seed("augmented noise", self.settings.seed, item.name)

    def _read(self, pair: Pair) -> Layout:
        ids = read_label_ids(self.synthesizer, pair, self.allow_bare_ids)
        return Layout(ids, None if pair.instance is None else read_instances(pair.instance))

    def _layout(self, item: _Item) -> tuple[Layout, dict[str, Any]]:
        """Return the layout of an image at the model's size, and what was done to it."""
        layout, size = self._read(item.pair), self.synthesizer.size
        if item.number == 0:
            return layout.resize(size, self.space), {}
        generator = seeded_generator("augmented layout", self.settings.seed, item.name)
        other = self.pairs[int(torch.randint(len(self.pairs), (), generator=generator))]
        donor = self._read(other) if self.settings.layout.paste else layout
        result, done = vary_layout(layout, donor, size, self.space, self.settings.layout, generator)
        return result, done | ({"pasted_from": other.name} if done["pasted"] else {})

    def _generate(self, items: Sequence[_Item], layouts: Sequence[Layout]) -> Tensor:
        """Generate an image of each layout, `[N, 3, H, W]` uint8."""
        batches = [self.synthesizer.read(layout.ids, instances=layout.instances) for layout in layouts]
        noise = torch.stack([self.synthesizer.noise(self._seed(item)) for item in items])
        return float_to_uint8(self.synthesizer.generate(Batch.concatenate(batches), noise))

    def _filter(self, image: Tensor, ids: Tensor) -> tuple[Tensor, float | None]:
        """Return the label map with unknown where the segmenter disagrees, and the share of agreeing pixels."""
        if self.segmenter is None or self.difficulty is None:
            return ids, None
        losses, settings = label_loss(self.segmenter, image, ids, self.space), self.settings
        agree = agreeing_pixels(losses, ids, self.difficulty, settings.tolerance, settings.region_share)
        known = int((ids < self.space.num_classes).sum())
        return ids.where(agree, self.space.num_classes), round(int(agree.sum()) / max(1, known), 4)

    def _write(self, out: Path, name: str, image: Tensor, layout: Layout) -> None:
        """Write label map, instance map and image, in this order."""
        with output_errors(out, _ADVICE):
            with atomic_write(_label(out, name), sync=False) as [unfinished]:
                write_label_png(unfinished, layout.ids, self.space)
            if layout.instances is not None:
                numbers = torch.unique(layout.instances, return_inverse=True)[1].numpy().astype("uint16")
                with atomic_write(out / "instances" / SPLIT / f"{name}.png", sync=False) as [unfinished]:
                    Image.fromarray(numbers).save(unfinished, format="PNG")
        write_picture(_image(out, name), image)


def augment(
    augmenter: Augmenter,
    out: Path,
    dist: DistributedContext,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> AugmentReport:
    """Write a dataset in format `folder` of generated images and their label maps.

    `OUT/images/train`, `OUT/labels/train` and, for label maps with instance maps, `OUT/instances/train` hold the pairs;
    `OUT/classes.yaml` is the label space, and `OUT/manifest.jsonl` has a line per image, also of dropped ones. A second
    run continues the first. The files do not depend on the number of processes, over which batches are distributed.

    Args:
        augmenter: model, label maps and settings.
        out: folder of the dataset.
        dist: the process group.
        on_progress: called with the number of finished images of this process and their total.

    Returns:
        The report, in process 0; elsewhere one without images.

    Raises:
        ConfigError: an extra is missing.
        LabelError: a label map holds bare ids that are not allowed.
        OutputError: the folder was made with other settings, or cannot be written.
    """
    with output_errors(out, _ADVICE):
        means = dist.run_on_main(lambda: _start(augmenter, out))
    augmenter.difficulty = None if means is None else torch.tensor(means, dtype=torch.float64)
    counts = dist.run_on_main(augmenter.plan)
    items = [
        _Item(pair, number) for pair, count in zip(augmenter.pairs, counts, strict=True) for number in range(count)
    ]
    finished = {
        image.name: image for image in _read_manifest(out) if not image.kept or _image(out, image.name).exists()
    }
    report = AugmentReport(out)
    size = augmenter.settings.batch_size
    batches = [items[start : start + size] for start in range(0, len(items), size)][dist.rank :: dist.size]
    total = sum(map(len, batches))
    with output_errors(out, _ADVICE), (out / f"manifest-{dist.rank}.part").open("a", encoding="utf-8") as part:
        for number, batch in enumerate(batches):
            if on_progress is not None:
                on_progress(number * size, total)
            # A whole batch is repeated, as on some devices rounding depends on it.
            if all(item.name in finished for item in batch):
                continue
            for image in augmenter.make(batch, out, report):
                part.write(json.dumps(asdict(image)) + "\n")
            part.flush()
    if on_progress is not None:
        on_progress(total, total)
    for other in dist.gather(report)[1:]:
        report.written += other.written
        report.failed += [failure for failure in other.failed if failure not in report.failed]
    if dist.main:
        report.images = _finish(out, [item.name for item in items])
    return report


def with_unknown(space: LabelSpace) -> LabelSpace:
    """Return a label space with unknown, for pixels that are filtered; its file value is a new one if it had none."""
    if space.unknown_value is not None:
        return space
    return replace(space, unknown_value=255 if max(space.class_values) < 255 else max(space.class_values) + 1)


def _start(augmenter: Augmenter, out: Path) -> list[float] | None:
    """Create the folder, or check that it was made with the same settings; return the difficulty of the classes."""
    settings, space = augmenter.describe(), augmenter.space
    if claim_folder(out, SETTINGS_FILE, settings, "augmented"):
        means = augmenter.measure()
        difficulty = None if means is None else dict(zip(space.names, means, strict=True))
        write_atomically(out / SETTINGS_FILE, json.dumps({**settings, "difficulty": difficulty}, indent=2) + "\n")
    else:
        found = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))["difficulty"]
        means = None if found is None else list(found.values())
    write_atomically(out / CLASSES_FILE, yaml.safe_dump(space.to_dict(), sort_keys=False))
    return means


def _finish(out: Path, names: Sequence[str]) -> list[AugmentedImage]:
    """Merge the parts of the manifest, in the order of the images."""
    found = {image.name: image for image in _read_manifest(out)}
    images = [found[name] for name in names if name in found]
    with output_errors(out, _ADVICE):
        write_atomically(out / MANIFEST, "".join(json.dumps(asdict(image)) + "\n" for image in images))
        for part in out.glob(_PARTS):
            part.unlink()
    return images


def _read_manifest(out: Path) -> Iterator[AugmentedImage]:
    """Yield the lines of the manifest and of its parts, which an interrupted run left."""
    for file in (out / MANIFEST, *sorted(out.glob(_PARTS))):
        yield from (AugmentedImage(**line) for line in read_json_lines(file))


def _image(out: Path, name: str) -> Path:
    return out / "images" / SPLIT / f"{name}.png"


def _label(out: Path, name: str) -> Path:
    return out / "labels" / SPLIT / f"{name}.png"


def _weights_hash(synthesizer: Synthesizer) -> str:
    """Return a hash of the generator's weights."""
    digest = hashlib.sha256()
    for name, tensor in synthesizer.generator.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def find_label_maps(labels: Path, format: str, split: str | None, out: Path) -> Sequence[Pair]:
    """Find the label maps of a set.

    Raises:
        DataError: there are none.
        OutputError: the new dataset would be among them.
    """
    if out.resolve() == labels.resolve() or labels.resolve() in out.resolve().parents:
        raise OutputError(f"{out} is within the label maps in {labels}; choose another folder")
    return find_pairs(format, labels, split, need_images=False)
