"""Command line: output, exit codes and startup time."""

from __future__ import annotations

import errno
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import lab2pix
from lab2pix import cli
from lab2pix.cli.console import explain_os_error, read_seed_pair, read_size, resolve_label_space
from lab2pix.errors import ConfigError, TrainingError
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config, preset_names
from lab2pix.utils.registry import label_space_names
from tests.helpers.commands import Run
from tests.helpers.small_runs import SMALL


def test_cli_loads_nothing_heavy_before_a_command_needs_it() -> None:
    script = (
        "import sys, lab2pix.cli; "
        "heavy = {'torch', 'numpy', 'pydantic', 'matplotlib', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_generate_loads_no_image_model_libraries(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(tmp_path / "map.png")
    script = (
        "import sys; from lab2pix.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as done: assert done.code == 0, done.code\n"
        "heavy = {'torchvision', 'timm', 'torch._dynamo', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    words = ["generate", "scenes", str(tmp_path / "map.png"), "--label-space=scenes", f"--out={tmp_path / 'out'}"]
    subprocess.run([sys.executable, "-c", script, *words], check=True, timeout=120)
    assert (tmp_path / "out" / "map.png").exists()


def test_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "lab2pix", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"lab2pix {lab2pix.__version__}"


@pytest.mark.slow
def test_package_attributes_load_lazily() -> None:
    assert lab2pix.LabelSpace is LabelSpace
    assert lab2pix.load_config is load_config
    assert callable(lab2pix.train)
    assert dir(lab2pix) == sorted(lab2pix.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lab2pix.nothing


def test_help_names_every_command(run: Run) -> None:
    code, output, _ = run("--help")
    assert code == 0
    for verb in ("train", "generate", "demo", "convert", "parity", "presets", "data", "labels"):
        assert verb in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("train",),
        ("generate",),
        ("demo",),
        ("convert",),
        ("parity",),
        ("presets", "show"),
        ("data", "check"),
        ("data", "prepare"),
        ("data", "preview"),
        ("data", "scenes"),
        ("data", "formats"),
        ("labels", "show"),
    ],
)
def test_every_command_has_help(run: Run, words: tuple[str, ...]) -> None:
    code, output, _ = run(*words, "--help")
    assert code == 0
    assert "Usage: lab2pix " + " ".join(words) in output


def test_presets_lists_all_with_what_they_are(run: Run) -> None:
    code, output, _ = run("presets")
    assert code == 0
    for name in preset_names():
        assert name in output
    assert "SPADE with its own PatchGAN" in output


def test_presets_show_prints_yaml_with_overrides(run: Run) -> None:
    code, output, _ = run("presets", "show", "v2-small", "seed=7")
    assert code == 0
    assert load_config(yaml.safe_load(output)) == load_config("v2-small", ["seed=7"])


def test_labels_list_and_show(run: Run) -> None:
    code, output, _ = run("labels")
    assert code == 0
    for name in label_space_names():
        assert name in output
    code, output, _ = run("labels", "show", "scenes")
    assert code == 0
    assert "water" in output
    assert "#" in output


def test_data_formats_lists_all(run: Run) -> None:
    code, output, _ = run("data", "formats")
    assert code == 0
    for name in ("cityscapes", "folder", "sketch"):
        assert name in output


@pytest.mark.parametrize(
    "words", [("nope",), ("train",), ("train", "--resume"), ("train", "v2-small", "--nope"), ("presets", "nope")]
)
def test_cli_wrong_usage_exits_2(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words)[0] == 2


def test_cli_error_is_one_line_and_debug_adds_the_traceback(run: Run) -> None:
    assert run("presets", "show", "v2-smal") == (2, "", "error: unknown preset 'v2-smal'; did you mean 'v2-small'?\n")
    with pytest.raises(ConfigError):
        cli.main(["presets", "show", "v2-smal", "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingError("the loss is not finite"), 1, "error: the loss is not finite\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "error: no permission to read or write /x; change its permissions, or choose another folder\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            2,
            "error: no space left on the disk to write /x; free some, or choose another folder\n",
        ),
    ],
)
def test_cli_maps_errors_to_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert run("anything") == (code, "", message)


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise OSError("no number")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(OSError, match="no number"):
        cli.main([])


@pytest.mark.slow
def test_dry_run_shows_settings_sizes_and_steps_and_writes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = run("train", "v2-small", *SMALL, "train.steps=12", "--dry-run", "--device=cpu")
    assert code == 0
    assert load_config(yaml.safe_load(output)) == load_config("v2-small", [*SMALL, "train.steps=12"])
    assert "# train pairs: 6" in output
    assert "# generator: " in output
    assert "# discriminator: " in output
    assert "# steps: 12 of 2 pairs each" in output
    assert re.search(r"# time: \S+ s a step, 0:00:\d\d in all \(cpu, measured in [123] steps? with random", output)
    assert re.search(r"# memory: \d\.\d GiB", output)
    assert "# checkpoints: 9 of 15 MiB" in output
    assert list(tmp_path.iterdir()) == []


def test_gpu_needs_a_dry_run(run: Run) -> None:
    code, _, errors = run("train", "v2-small", "--gpu=a100")
    assert (code, "--gpu is for --dry-run only" in errors) == (2, True)


@pytest.mark.slow
def test_dry_run_counts_the_steps_of_epochs(run: Run) -> None:
    _, output, _ = run(
        *("train", "v2-small", *SMALL, "train.steps=null", "train.epochs=3", "data.scenes.train_count=50"),
        *("--dry-run", "--gpu=a100"),
    )
    assert "# steps: 75 of 2 pairs each" in output
    assert "in all (a100, counted, at 30% of 156 TFLOP/s)" in output


@pytest.mark.slow
def test_dry_run_of_a_real_data_set_says_what_is_missing(run: Run) -> None:
    narrow = (
        "generator.width=2",
        "discriminator.width=2",
        "discriminator.max_width=4",
        "generator.global_encoder.width=2",
    )
    code, output, errors = run("train", "v2-cityscapes", *narrow, "--dry-run", "--gpu=a100")
    assert (code, errors) == (0, "")
    assert "# train pairs: unknown, data.root is not set" in output
    code, _, errors = run("train", "v2-cityscapes", *narrow)
    assert (code, errors) == (2, "error: data.root is not set: add data.root=/path/to/cityscapes\n")


def test_printed_commands_quote_paths_with_spaces(run: Run, tmp_path: Path) -> None:
    code, output, _ = run("data", "scenes", tmp_path / "my scenes", "--count", 1, "--size", "32x32")
    assert code == 0
    assert f"data.format=folder 'data.root={tmp_path / 'my scenes'}' data.label_space=scenes" in output


def test_read_size_and_read_seed_pair_refuse_other_text() -> None:
    assert read_size("64x128") == (64, 128)
    assert read_seed_pair("3, 8") == (3, 8)
    assert read_seed_pair(None) is None
    for text in ("64", "x64", "0x64", "64x64x3", "-1x2"):
        with pytest.raises(ConfigError, match="must be height x width"):
            read_size(text)
    for text in ("3", "a,b", "1,2,3", "-1,2"):
        with pytest.raises(ConfigError, match="must be two seeds"):
            read_seed_pair(text)


def test_resolve_label_space_knows_the_formats_own() -> None:
    assert resolve_label_space(None, "facades-base").name == "facades"
    assert resolve_label_space("scenes", "folder").name == "scenes"
    with pytest.raises(ConfigError, match="set --labels"):
        resolve_label_space(None, "folder")
    with pytest.raises(ConfigError, match="'fodler'; did you mean 'folder'"):
        resolve_label_space(None, "fodler")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_that_is_not_utf_8_is_printed_with_replacements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("classes: [\u00e9t\u00e9, \u732b]\n", encoding="utf-8")
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["labels", "show", str(file)])
    assert exit_info.value.code == 0
    with pytest.raises(SystemExit):
        cli.main(["labels", "show", str(tmp_path / "\u732b\udcff.yaml")])
    out, errors = (stream.buffer for stream in streams)
    for stream in streams:
        stream.flush()
    assert b"?" in out.getvalue() and b"Cannot read the label space" in errors.getvalue()


@pytest.mark.parametrize("words", [("labels", "show", "~/x.YAML"), ("data", "check", "~/set", "--labels=~/x.YAML")])
def test_the_home_folder_is_found_in_arguments_and_options(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.YAML").write_text("classes: [yes, no]\n")
    for part in ("images", "labels"):
        (tmp_path / "set" / part).mkdir(parents=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "set" / part / "a.png")
    code, out, errors = run(*words)
    assert code == 0, errors
    assert "yes" in out and "no" in out


def test_the_home_folder_is_found_in_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = {"root": "~/set", "label_space": "~/x.yaml", "labels": {"root": "~/maps"}, "images": {"root": "~/shots"}}
    config = load_config({"base": "v2-small", "data": data, "evaluation": {"segmenter": "~/reader"}})
    found = [config.data.root, config.data.label_space, config.data.labels.root, config.data.images.root]
    assert found == [f"{tmp_path}/{name}" for name in ("set", "x.yaml", "maps", "shots")]
    assert config.evaluation.segmenter == f"{tmp_path}/reader"
    overrides = ("data.root=~/set", "train.init_from=~/run", "backbone.weights.vgg19=~/vgg.pth")
    config = load_config("v2-small", overrides)
    assert [config.data.root, config.train.init_from] == [f"{tmp_path}/set", f"{tmp_path}/run"]
    assert config.backbone.weights == {"vgg19": f"{tmp_path}/vgg.pth"}


@pytest.mark.parametrize("text", ["in/set #1", "2024", "&x", "a${b}", " x ", "true", "[a]", "a: b", "'q'", "*", "1e5"])
def test_settings_of_text_are_taken_as_typed(text: str) -> None:
    overrides = [f"{key}={text}" for key in ("name", "data.root", "data.images.root", "train.init_from")]
    config = load_config("v2-small", [*overrides, f"backbone.weights.vgg19={text}"])
    found = (config.name, config.data.root, config.data.images.root, config.train.init_from)
    assert found == (text,) * 4 and config.backbone.weights == {"vgg19": text}


def test_os_errors_keep_the_systems_message() -> None:
    assert explain_os_error(IsADirectoryError(errno.EISDIR, "Is a directory", "/x")) == "cannot use /x: Is a directory"
