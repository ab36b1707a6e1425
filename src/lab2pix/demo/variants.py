"""Variants of the demonstration: preset, and texts of page and contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError, did_you_mean

__all__ = ["VARIANTS", "DemoVariant", "find_variant", "variant_of"]


@dataclass(frozen=True)
class DemoVariant:
    """A variant of the demonstration.

    Attributes:
        method: its name on the command line (`--method`).
        preset: preset of the training.
        run_name: name of the run, by which its folder is recognized.
        system: name of the method on the page.
        condition: input of the network.
        generated: short name of the generated image.
        real: short name of the true image.
        unpaired: whether it is trained without pairs.
        seeds: number of seeds that are shown.
        learned: text after "learned to generate landscapes".
        comparing: text above the images.
        colors: heading of the legend.
        noise: remark on different noise, as HTML.
        yours: text after "or for one that you".
        own: text on training with other data, as HTML.
        commands: commands for that, each with a comment.
    """

    method: str
    preset: str
    run_name: str
    system: str
    condition: str
    generated: str
    real: str
    unpaired: bool
    seeds: int
    learned: str
    comparing: str
    colors: str
    noise: str
    yours: str
    own: str
    commands: Sequence[tuple[str, str]]

    @property
    def real_caption(self) -> str:
        """Caption of the true image."""
        return f"{self.real}, never shown with it" if self.unpaired else self.real


_FOLDER = "data.format=folder data.root=mine data.label_space=mine.yaml"

_V2 = DemoVariant(
    method="v2",
    preset="v2-small",
    run_name="demo",
    system="Lab2Pix-V2",
    condition="label map",
    generated="generated",
    real="true",
    unpaired=False,
    seeds=3,
    learned="from maps that say which class each pixel is",
    comparing="The network sees the label map alone: which pixel is water, which is mountain. The real image is "
    "the one of the label map.",
    colors="What the colors mean",
    noise="They may differ little: the losses that compare with the real image favor one output.",
    yours="paint yourself in the colors above",
    own="Point it at a folder of your own: photos in <code>mine/images/train</code>, label maps of the same names in "
    "<code>mine/labels/train</code>, some of both in <code>val</code>, and a small YAML file that names the classes.",
    commands=(
        ("lab2pix data check mine --labels mine.yaml", "does everything fit together?"),
        (f"lab2pix train v2-small {_FOLDER} 'data.size=[128,128]' --out runs/mine", "train"),
        ("lab2pix generate runs/mine mine/labels/val --out images", "generate"),
    ),
)

_V1 = DemoVariant(
    method="v1",
    preset="v1-small",
    run_name="demo-v1",
    system="Lab2Pix-V1",
    condition="label map",
    generated="X3",
    real="its scene",
    unpaired=True,
    seeds=5,
    learned="without pairs: from maps that say which class each pixel is, and from images of other landscapes. "
    "In each epoch every label map was paired with another image, never its own",
    comparing="The network sees the label map alone; X3 is the largest of the three images of one "
    "pass. On the right is the scene of this label map, never shown with it in training: "
    "the network cannot know its light and colors, only its classes.",
    colors="What the colors mean",
    noise="No loss tells the network which image is right, and one rewards images that differ "
    "(<code>loss.diversity</code>, which the paper does not have).",
    yours="paint yourself in the colors above",
    own="Point it at two folders of your own, label maps in <code>maps</code> and photos in <code>shots</code>, that "
    "need not belong together, and a small YAML file that names the classes.",
    commands=(
        (
            "lab2pix train v1-small data.labels.root=maps data.images.root=shots data.label_space=mine.yaml "
            "data.val_split=null 'data.size=[128,128]' --out runs/mine",
            "train",
        ),
        ("lab2pix generate runs/mine maps --out images", "generate"),
    ),
)

_V1_SKETCH = replace(
    _V1,
    method="v1-sketch",
    preset="v1-small-sketch",
    run_name="demo-v1-sketch",
    condition="drawing",
    learned="without pairs: from line drawings, and from images of other landscapes. In each epoch every drawing was "
    "paired with another image, never its own",
    comparing="The network sees the drawing alone: lines where one thing ends and another begins, but not what they "
    "are. X3 is the largest of the three images of one pass. On the right is the scene "
    "of this drawing, never shown with it in training.",
    colors="What the drawings show",
    yours="draw yourself, one pixel thin",
    own="Point it at a folder of photos of your own; the drawings to learn from are made of their edges. Then draw "
    "from drawings of yours, dark lines on light paper or the reverse.",
    commands=(
        (
            "lab2pix train v1-small-sketch data.images.root=shots data.sketch.from=photo "
            "data.val_split=null 'data.size=[128,128]' --out runs/mine",
            "train",
        ),
        ("lab2pix generate runs/mine drawings --out images", "generate"),
    ),
)

VARIANTS = {kind.method: kind for kind in (_V2, _V1, _V1_SKETCH)}
"""All variants, by `--method`."""


def find_variant(method: str) -> DemoVariant:
    """Return a variant by its name.

    Raises:
        ConfigError: the name is unknown.
    """
    if method not in VARIANTS:
        raise ConfigError(f"there is no demo of method '{method}'{did_you_mean(method, VARIANTS)}")
    return VARIANTS[method]


def variant_of(config: RunConfig) -> DemoVariant | None:
    """Return the variant of a run; None for other runs."""
    return next((kind for kind in VARIANTS.values() if kind.run_name == config.name), None)
