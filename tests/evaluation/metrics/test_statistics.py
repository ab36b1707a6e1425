from pathlib import Path

import pytest
import torch

from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.metrics.distribution import FeatureMoments, frechet_distance, kernel_distance
from lab2pix.evaluation.metrics.statistics import check_statistics, load_statistics, save_statistics


@pytest.fixture
def moments() -> FeatureMoments:
    found = FeatureMoments(6, 10)
    rows = torch.randn(25, 6, generator=torch.Generator().manual_seed(0))
    found.update(rows, [str(index) for index in range(25)])
    return found


def test_saved_statistics_give_the_same_distances(tmp_path: Path, moments: FeatureMoments) -> None:
    save_statistics(tmp_path / "deep" / "real.safetensors", moments, {"features": "x", "size": [4, 4]})
    loaded, meta = load_statistics(tmp_path / "deep" / "real.safetensors")
    assert meta == {"features": "x", "size": [4, 4]}
    other = FeatureMoments(6)
    other.update(torch.randn(30, 6, generator=torch.Generator().manual_seed(1)), [str(index) for index in range(30)])
    assert frechet_distance(other, loaded) == frechet_distance(other, moments)
    assert kernel_distance(other, loaded) == kernel_distance(other, moments)


def test_save_statistics_overwrites_nothing_unasked(tmp_path: Path, moments: FeatureMoments) -> None:
    file = tmp_path / "real.safetensors"
    save_statistics(file, moments, {})
    with pytest.raises(OutputError, match="is there already"):
        save_statistics(file, moments, {})


def test_load_statistics_refuses_another_file(tmp_path: Path) -> None:
    file = tmp_path / "real.safetensors"
    file.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"real\.safetensors cannot be read as statistics"):
        load_statistics(file)


def test_statistics_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="computed with features a, but this evaluation has b"):
        check_statistics({"features": "a"}, {"features": "b"}, tmp_path)
    check_statistics({"features": "a", "count": 3}, {"features": "a"}, tmp_path)
