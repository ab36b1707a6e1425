"""What can be demonstrated: which recipe is trained, and what the page and the sheet of pictures say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError, did_you_mean

__all__ = ["VARIANTS", "DemoVariant", "find_variant", "variant_of"]


@dataclass(frozen=True)
class DemoVariant:
    """A demonstration.

    Attributes:
        method: what `--method` calls it.
        preset: what is trained.
        run_name: the run's name, by which a folder is known again.
        system: the method, for readers.
        condition: what the network draws from.
        generated: the short name of what it draws.
        real: the short name of the picture that belongs to the condition.
        unpaired: whether the training saw no pairs.
        seeds: how many pictures of one condition are shown.
        learnt: what it learnt, after "learnt to draw landscapes".
        comparing: the paragraph above the pictures, after how they were chosen.
        colors: heading above the list of what the condition's colours mean.
        noise: what is to be said about other noise, as HTML.
        yours: how to make a condition of one's own, after "or for one that you".
        own: how to give it data of one's own, as HTML.
        commands: the command lines for these, each with what it does.
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
    learnt: str
    comparing: str
    colors: str
    noise: str
    yours: str
    own: str
    commands: Sequence[tuple[str, str]]

    @property
    def real_caption(self) -> str:
        """What stands below the picture that belongs to the condition."""
        return f"{self.real}, never shown with it" if self.unpaired else self.real


_FOLDER = "data.layout=folder data.root=mine data.label_space=mine.yaml"

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
    learnt="from maps that say which class each pixel is",
    comparing="The network sees the label map alone: which pixel is water, which is mountain. The true picture is "
    "the one the label map was made with.",
    colors="What the colours mean",
    noise="They may differ little: the losses that compare with the true picture ask for one answer.",
    yours="paint yourself in the colours above",
    own="Point it at a folder of your own: photos in <code>mine/images/train</code>, label maps of the same names in "
    "<code>mine/labels/train</code>, some of both in <code>val</code>, and a small YAML file that names the classes.",
    commands=(
        ("lab2pix data check mine --labels mine.yaml", "does everything fit together?"),
        (f"lab2pix train v2-small {_FOLDER} data.size=[128,128] --out runs/mine", "train"),
        ("lab2pix generate runs/mine mine/labels/val --out pictures", "draw"),
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
    learnt="without pairs: from maps that say which class each pixel is, and from pictures of other landscapes. "
    "In each epoch every label map met another picture, and never its own",
    comparing="The network sees the label map alone; X3 is the largest of the three pictures that it draws in one "
    "pass. On the right is the scene that was drawn for this label map, never shown with it in training: "
    "the network cannot know its light and colours, only its classes.",
    colors="What the colours mean",
    noise="No loss tells the network which picture is the right one, and one rewards pictures that differ "
    "(<code>loss.diversity</code>, which the paper does not have).",
    yours="paint yourself in the colours above",
    own="Point it at two folders of your own, label maps in <code>maps</code> and photos in <code>shots</code>, that "
    "need not belong together, and a small YAML file that names the classes.",
    commands=(
        (
            "lab2pix train v1-small data.labels.root=maps data.images.root=shots data.label_space=mine.yaml "
            "data.val_split=null data.size=[128,128] --out runs/mine",
            "train",
        ),
        ("lab2pix generate runs/mine maps --out pictures", "draw"),
    ),
)

_V1_SKETCH = DemoVariant(
    method="v1-sketch",
    preset="v1-small-sketch",
    run_name="demo-v1-sketch",
    system="Lab2Pix-V1",
    condition="drawing",
    generated="X3",
    real="its scene",
    unpaired=True,
    seeds=5,
    learnt="without pairs: from line drawings, and from pictures of other landscapes. In each epoch every drawing met "
    "another picture, and never its own",
    comparing="The network sees the drawing alone: lines where one thing ends and another begins, but not what they "
    "are. X3 is the largest of the three pictures that it draws in one pass. On the right is the scene "
    "that the drawing was made of, never shown with it in training.",
    colors="What the drawings show",
    noise="No loss tells the network which picture is the right one, and one rewards pictures that differ "
    "(<code>loss.diversity</code>, which the paper does not have).",
    yours="draw yourself, one pixel thin",
    own="Point it at a folder of photos of your own; the drawings to learn from are made of their edges. Then draw "
    "from drawings of yours, dark lines on light paper or the reverse.",
    commands=(
        (
            "lab2pix train v1-small-sketch data.images.root=shots data.sketch.from=photo "
            "data.val_split=null data.size=[128,128] --out runs/mine",
            "train",
        ),
        ("lab2pix generate runs/mine drawings --out pictures", "draw"),
    ),
)

VARIANTS = {kind.method: kind for kind in (_V2, _V1, _V1_SKETCH)}
"""All demonstrations, by what `--method` calls them."""


def find_variant(method: str) -> DemoVariant:
    """Return a demonstration by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    if method not in VARIANTS:
        raise ConfigError(f"there is no demo of method '{method}'{did_you_mean(method, VARIANTS)}")
    return VARIANTS[method]


def variant_of(config: RunConfig) -> DemoVariant | None:
    """Return the demonstration that a run is of; None where it is none."""
    return next((kind for kind in VARIANTS.values() if kind.run_name == config.name), None)
