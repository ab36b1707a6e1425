import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lab2pix.errors import DataError
from lab2pix.evaluation.metrics.distribution import FeatureMoments, frechet_distance, kernel_distance, precision_recall


def features(seed: int, count: int, dimension: int = 12, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=random)
    return torch.randn(count, dimension, generator=random) @ mixing + shift


def taken(rows: Tensor, pool: int = 10_000) -> FeatureMoments:
    moments = FeatureMoments(rows.shape[1], pool)
    moments.update(rows, [f"picture {index}" for index in range(len(rows))])
    return moments


def frechet_by_scipy(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


@pytest.mark.parametrize("count", [40, 400])
def test_frechet_distance_is_scipys(count: int) -> None:
    a, b = features(0, count), features(1, count + 7, shift=0.5)
    assert frechet_distance(taken(a), taken(b)) == pytest.approx(frechet_by_scipy(a, b), rel=1e-6)


def test_kernel_distance_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = features(0, 60), features(1, 60, shift=0.5)
    how = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=60, verbose=False, **how)
    mean, deviation = kernel_distance(taken(a), taken(b))
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert deviation == 0


def test_kernel_distance_over_subsets_lies_near_that_of_all() -> None:
    a, b = features(0, 400), features(1, 300, shift=0.5)
    whole, _ = kernel_distance(taken(a[:300]), taken(b), subsets=1)
    mean, deviation = kernel_distance(taken(a), taken(b), subsets=50, subset_size=100)
    assert abs(mean - whole) < 3 * deviation
    assert kernel_distance(taken(a), taken(b), subset_size=100, seed=1) == kernel_distance(
        taken(a), taken(b), subset_size=100, seed=1
    )


def test_frechet_distance_of_singular_covariances() -> None:
    a, b = features(0, 5, 64), features(1, 6, 64)
    assert frechet_distance(taken(a), taken(b)) == pytest.approx(frechet_by_scipy(a, b), rel=1e-3)
    assert taken(a).rank_deficient


def test_feature_moments_are_exact_for_a_large_mean() -> None:
    # To a level of 1e6 float64 has ten digits left; sums of squares would have none.
    a = features(0, 500).double()
    moments = FeatureMoments(12)
    for part in (a + 1e6).split(7):
        moments.update(part, [f"{part[0, 0]} {index}" for index in range(len(part))])
    torch.testing.assert_close(moments.covariance(), torch.cov(a.T), rtol=1e-7, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), cut=st.integers(0, 30), pool=st.sampled_from([5, 20, 100]))
def test_feature_moments_do_not_depend_on_batches_or_order(seed: int, cut: int, pool: int) -> None:
    rows = features(seed, 30)
    names = [f"picture {index}" for index in range(30)]
    whole = taken(rows, pool)
    one, other = FeatureMoments(12, pool), FeatureMoments(12, pool)
    one.update(rows[cut:].flip(0), names[cut:][::-1])
    other.update(rows[:cut], names[:cut])
    one.merge(FeatureMoments.from_state(other.state(), pool))
    torch.testing.assert_close(one.mean(), whole.mean())
    torch.testing.assert_close(one.covariance(), whole.covariance())
    assert torch.equal(one.sample(), whole.sample())
    assert len(one.sample()) == min(pool, 30)


def test_frechet_distance_of_one_image_is_refused() -> None:
    with pytest.raises(DataError, match="sets of 1 and 9 images is undefined"):
        frechet_distance(taken(features(0, 1)), taken(features(1, 9)))
    with pytest.raises(DataError, match="kernel distance"):
        kernel_distance(taken(features(0, 4)), taken(features(1, 0)))


# --- precision and recall ----------------------------------------------------------------------------------------


def test_precision_and_recall_are_shares_within_the_balls_of_the_other_set() -> None:
    fake, real = features(0, 40, 3, shift=0.7), features(0, 1030, 3)
    apart = np.linalg.norm(fake.double().numpy()[:, None] - real.double().numpy()[None], axis=2)

    def radii(rows: Tensor) -> np.ndarray:
        points = rows.double().numpy()
        return np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, 3]  # 0: itself

    precision, recall = (apart <= radii(real)).any(1).mean(), (apart <= radii(fake)[:, None]).any(0).mean()
    assert precision_recall(taken(fake), taken(real)) == pytest.approx((precision, recall))
    assert 0 < precision < recall < 1
    assert precision_recall(taken(real), taken(real)) == (1, 1)
    with pytest.raises(DataError, match="take sets of more than 3 images, not of 3"):
        precision_recall(taken(fake[:3]), taken(real))
