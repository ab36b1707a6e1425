"""A run keeps its own label spaces, whatever becomes of the files that they were read from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import keep_label_spaces, load_config
from lab2pix.training import latest_checkpoint, read_run_config, train
from lab2pix.training.run_folder import resolve_run
from tests.helpers.toy import toy_config

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The classes of scenes in a file of the user."""
    path = tmp_path / "mine.YAML"
    path.write_text(yaml.safe_dump(LabelSpace.load("scenes").to_dict()))
    return path


def edit(file: Path, **changes: object) -> None:
    """Change keys of the label space, or of its first class."""
    values = yaml.safe_load(file.read_text())
    first = values["classes"][0]
    for key, value in changes.items():
        (first if key in ("name", "foreground", "color", "value") else values)[key] = value
    file.write_text(yaml.safe_dump(values))


def config_of(file: Path, **changes: object):
    return toy_config(data__label_space=str(file), train__steps=4, **changes)


@pytest.fixture
def run(tmp_path: Path, file: Path) -> Path:
    """A run that ended before its last step."""
    folder = tmp_path / "run"
    train(config_of(file, train__max_minutes=1e-9), folder)
    return folder


@pytest.mark.slow
def test_a_run_stores_the_content_of_its_label_space(run: Path, file: Path) -> None:
    stored = read_run_config(run)
    assert LabelSpace.load(stored.data.label_space).differences(LabelSpace.load("scenes")) == []
    file.unlink()
    assert train(None, run, resume=True).step == 2  # the stored time limit ends it again
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    assert Synthesizer.load(checkpoint, device="cpu").label_space == LabelSpace.load("scenes")


@pytest.mark.slow
@pytest.mark.parametrize("moved", ["unlink", "rename"])
def test_a_run_goes_on_after_its_file_was_deleted_or_moved(run: Path, file: Path, moved: str) -> None:
    asked = file
    if moved == "rename":
        asked = file.rename(file.with_name("other.yml"))
    else:
        file.unlink()
    assert train(config_of(asked), run, resume=True).step == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"foreground": True}, r"classes\[0\].foreground: False / True"),
        ({"color": [1, 2, 3]}, r"classes\[0\].color: \[135, 190, 235\] / \[1, 2, 3\]"),
        ({"value": 200}, r"classes\[0\].value: None / 200"),
        ({"name": "heaven"}, r"classes\[0\].name: sky / heaven"),
        ({"file_offset": 1}, "file_offset: 0 / 1"),
        ({"unknown_value": 255}, "unknown_value: None / 255"),
        ({"classes": ["a"]}, "number of classes: 14 / 1"),
    ],
)
def test_an_edited_file_is_an_error_that_says_how(run: Path, file: Path, changes: dict, words: str) -> None:
    edit(file, **changes)
    with pytest.raises(ConfigError, match=rf"mine\.YAML is not the label space .*{words}.*; restore it"):
        resolve_run(config_of(file), run, resume=True)
    assert resolve_run(None, run, resume=True) == read_run_config(run)


def test_a_file_that_was_only_written_differently_is_the_same(run: Path, file: Path) -> None:
    edit(file, unknown_color=None)
    file.write_text(f"# a comment\n{file.read_text()}")
    assert resolve_run(config_of(file), run, resume=True).data == read_run_config(run).data


def test_the_label_space_of_sketches_is_kept_as_well(tmp_path: Path, file: Path) -> None:
    overrides = ("data.label_space=sketch", "data.sketch.from=labels", f"data.sketch.label_space={file}")
    config = keep_label_spaces(load_config("v1-small-sketch", overrides))
    assert isinstance(config.data.sketch.label_space, dict)
    edit(file, file_offset=3)
    with pytest.raises(ConfigError, match=r"data\.sketch\.label_space: .*file_offset: 0 / 3"):
        keep_label_spaces(load_config("v1-small-sketch", overrides), config)
    file.unlink()
    assert keep_label_spaces(load_config("v1-small-sketch", overrides), config) == config


def test_a_missing_file_stops_a_new_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.label_space names '.*none\.yaml', but there is no such file"):
        train(config_of(tmp_path / "none.yaml"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_other_classes_is_refused(run: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the stored settings name the file instead of its content."""
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["data"]["label_space"] = str(file)
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    edit(file, foreground=True)
    with pytest.raises(CheckpointError, match=r"classes\[0\].foreground: False / True"):
        train(None, run, resume=True)
