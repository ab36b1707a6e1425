import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab2pix.errors import DataError
from lab2pix.evaluation.metrics.segmentation import ScoredClasses, SegmentationScores
from lab2pix.labels.space import LabelSpace

CITYSCAPES = LabelSpace.load("cityscapes")
SCENES = LabelSpace.load("scenes")


def random_maps(seed: int, space: LabelSpace, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(space.num_channels, (count, 8, 9), generator=random)
    noise = torch.randint(space.num_channels, label.shape, generator=random)
    keep = torch.rand(label.shape, generator=random) < 0.6
    return torch.where(keep, label, noise), label


@pytest.mark.slow
@pytest.mark.parametrize("space", [CITYSCAPES, SCENES, LabelSpace.load("ade20k")], ids=lambda space: space.name)
def test_segmentation_scores_match_scikit_learn(space: LabelSpace) -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

    read, label = random_maps(1, space)
    scored = ScoredClasses.of(space)
    scores = SegmentationScores(scored)
    scores.update(read, label)
    there = scored.table[label].flatten().numpy()
    found = scored.table[read].flatten().numpy()
    counting = there >= 0
    there, found = there[counting], found[counting]
    classes = np.unique(there)
    seen = np.union1d(classes, found[found >= 0])
    computed = scores.compute()
    assert computed["ppa"] == pytest.approx(accuracy_score(there, found))
    assert computed["pca"] == pytest.approx(recall_score(there, found, labels=classes, average="macro"))
    assert computed["ciou"] == pytest.approx(jaccard_score(there, found, labels=seen, average="macro"))
    labels = list(range(len(scored.names)))
    assert np.array_equal(confusion_matrix(there, found, labels=labels), scores.table[:, :-1].numpy())


def test_cityscapes_is_scored_on_its_nineteen_classes() -> None:
    scored = ScoredClasses.of(CITYSCAPES)
    assert len(scored.names) == 19
    assert scored.names[0] == "road"
    assert int(scored.table[CITYSCAPES.num_classes]) == -1  # unknown


def test_unknown_does_not_count_and_reading_nothing_is_wrong() -> None:
    scores = SegmentationScores(ScoredClasses.of(CITYSCAPES))
    road, unknown = CITYSCAPES.names.index("road"), CITYSCAPES.num_classes
    label = torch.tensor([[[road, road, unknown, unknown]]])
    per_picture = scores.update(torch.tensor([[[road, -1, road, unknown]]]), label)
    assert per_picture.tolist() == [0.5]
    assert scores.compute() == {"ppa": 0.5, "pca": 0.5, "ciou": 0.5}


def test_classes_that_occur_nowhere_are_left_out_and_named() -> None:
    scores = SegmentationScores(ScoredClasses.of(SCENES))
    label = torch.zeros(1, 4, 4, dtype=torch.int64)
    read = label.clone()
    read[0, 0] = 1
    scores.update(read, label)
    assert scores.compute() == {"ppa": 0.75, "pca": 0.75, "ciou": pytest.approx(0.75 / 2)}
    assert scores.left_out() == list(SCENES.names[2:])
    assert [row["pixels"] for row in scores.per_class()][:3] == [16, 0, 0]
    assert scores.per_class()[1]["accuracy"] is None


def test_a_picture_without_any_pixel_that_counts() -> None:
    scores = SegmentationScores(ScoredClasses.of(CITYSCAPES))
    label = torch.full((1, 2, 2), CITYSCAPES.num_classes)
    assert math.isnan(float(scores.update(label, label)))
    with pytest.raises(DataError, match="no pixel of the label maps"):
        scores.compute()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 5), max_size=3), turned=st.booleans())
def test_segmentation_scores_do_not_depend_on_batches_or_order(seed: int, cuts: list[int], turned: bool) -> None:
    read, label = random_maps(seed, CITYSCAPES)
    whole = SegmentationScores(ScoredClasses.of(CITYSCAPES))
    whole.update(read, label)
    joined = SegmentationScores(ScoredClasses.of(CITYSCAPES))
    edges = [0, *sorted(cuts), 5]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
    for part in reversed(parts) if turned else parts:
        other = SegmentationScores(ScoredClasses.of(CITYSCAPES))
        other.update(read[part], label[part])
        joined.merge(other)
    assert joined.compute() == whole.compute()
