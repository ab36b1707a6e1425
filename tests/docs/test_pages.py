"""Every command and every Python block of the README and of the guide runs, in order, in a folder of its page."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.main import get_command

from lab2pix import cli
from lab2pix.inference.label_classes import ClassMapping
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from lab2pix.training import monitor
from tests.docs.blocks import PAGES, ROOT, Runner, blocks, free_port
from tests.docs.given import TINY, Given
from tests.helpers.hub import use_folders_as_hub

TINY_V1 = f"{TINY} segmenter.width=4"
NO_DOWNLOAD = "backbone.discriminator=efficientnet-lite0 backbone.perceptual=efficientnet-lite0"
FULL = f"{NO_DOWNLOAD} train.epochs=null 'data.size=[64,128]' data.resize=null data.workers=0"
SMALL_SEGMENTER = "--steps 20 --batch-size 2 --encoder tu-mobilenetv3_small_050"
PORT = free_port()

REPLACED: dict[str, dict[str, str]] = {
    "every page": {
        "lab2pix train v2-small": f"lab2pix train v2-small {TINY}",
        "lab2pix train v1-small": f"lab2pix train v1-small {TINY_V1}",
        "lab2pix train v2-coco-stuff": f"lab2pix train v2-coco-stuff {TINY} {FULL}",
        "lab2pix train v2-cityscapes": f"lab2pix train v2-cityscapes {TINY} {FULL}",
        "lab2pix train v1-edges2shoes": f"lab2pix train v1-edges2shoes {TINY_V1} {FULL} 'data.size=[64,64]'",
        "lab2pix fit mine": f"lab2pix fit mine --no-browser --device cpu {TINY}",
        "lab2pix demo": f"lab2pix demo {TINY} --minutes 0.1",
        "lab2pix paint": f"lab2pix paint --port {PORT}",
        "study serve study": f"study serve study --port {PORT}",
        "127.0.0.1:8000": f"127.0.0.1:{PORT}",
        "train.steps=1000": "train.steps=1",
        "train.steps=500": "train.steps=1",
        "--nproc-per-node 4": "--nproc-per-node 1",
        "--size 256x256": "--size 32x32",
    },
    "quickstart": {"train.batch_size=8": "train.batch_size=2"},
    "augment": {
        "--samples 4": "--samples 1 --tolerance 100",
        "segmenter train --root": f"segmenter train {SMALL_SEGMENTER} --root",
        "--photos mine/images/train": "--photos mine/images/train --max-distance 1e9",
        "--split train --out more": "--split train --out more --samples 1",
    },
    "configuration": {
        "lab2pix train mine.yaml": f"lab2pix train mine.yaml {TINY}",
        "root: /path/to/mine": "root: mine",
        "steps: 20000": "steps: 1",
    },
    "data": {"ROOT --format F --labels SPACE_OR_YAML": "camvid --format folder --labels camvid.yaml"},
    "export": {"(1, 128, 128,": "(1, 64, 64,"},
    "generate": {
        "runs/mine labels --out sunset": "runs/style labels --out sunset",
        'synthesizer("label.png", style=': 'Synthesizer("runs/style")("label.png", style=',
        "runs/mine labels --out scales": "runs/v1 labels --out scales",
    },
    "label": {"torchvision:deeplabv3_mobilenet_v3_large": "segmenters/mine"},
    "scenes": {"--count 100": "--count 2"},
    "segmenters": {
        "segmenter train --format folder": f"segmenter train {SMALL_SEGMENTER} --format folder",
        "--encoder-weights imagenet --steps 40000 --batch-size 8": "--steps 20 --batch-size 2",
        "--size 512x1024": "--size 32x64",
        "[512, 1024]": "[32, 64]",
        "(2, 3, 512, 1024)": "(2, 3, 32, 64)",
    },
    "study": {"--count 100": "--count 2", "samples=100": "samples=2"},
    "training": {
        "lab2pix train my-streets.yaml": f"lab2pix train my-streets.yaml {TINY}",
        '{"train.steps": 500}': str(TINY.split()),
        'train("v2-small", out': f'train("v2-small", {TINY.split()}, out',
        "train.evaluate_every=5000": "train.evaluate_every=1",
        "train.evaluate_every=500": "train.evaluate_every=1",
        "[inception]": "[efficientnet-lite1]",
        "step-00003000": "step-00000001",
        "--count 256": "--count 2",
        "/path/to/cityscapes": "cityscapes",
        "/data/cityscapes": "cityscapes",
        "/data/coco": "coco",
        "/shared/runs/coco": "runs/coco-shared",
        "--nnodes 2 --nproc-per-node 8": "--nnodes 1 --nproc-per-node 1",
        "first-machine:29500": f"127.0.0.1:{PORT}",
    },
}
"""THE table: each size, step count and path that the tests replace. Nothing else differs from what the pages say."""


def replaced(page: str, text: str) -> str:
    """Return a command or a block as the test runs it."""
    for table in ("every page", page):
        for old, new in REPLACED.get(table, {}).items():
            text = text.replace(old, new)
    return text


GIVEN: dict[str, dict[str, str]] = {
    "README": {
        "mine": "many",
        "mine.yaml": "mine.yaml",
        "my-labels": "mine/labels/val",
        "my-photos": "mine/images/val",
    },
    "quickstart": {"mine": "mine"},
    "augment": {"mine": "mine", "runs/mine": "run", "segmenters/mine": "segmenter"},
    "configuration": {"mine": "mine", "mine-classes.yaml": "mine.yaml"},
    "convert": {"checkpoints/city": "official-v1", "cityscapes": "cityscapes"},
    "data": {
        **{"camvid": "mine", "maps": "mine/labels/val", "shots": "mine/images/val", "photos": "mine/images/val"},
        "edges2shoes": "edges2shoes",
    },
    "evaluate": {
        **{"mine": "mine", "mine.yaml": "mine.yaml", "runs/mine": "run", "segmenters/unet": "segmenter"},
        **dict.fromkeys(("pictures", "photos", "a", "b"), "mine/images/val"),
        **{name: f"reports/{name}" for name in ("spade-1.json", "spade-2.json", "ours-1.json", "ours-2.json")},
    },
    "export": {
        "runs/mine": "run",
        "label.png": "mine/labels/val/0901.png",
        "draw_with_onnx.py": "examples/draw_with_onnx.py",
    },
    "fit": {"mine": "many"},
    "fast": {"runs/mine": "run", "labels": "mine/labels/val"},
    "generate": {
        **{"mine": "mine", "runs/mine": "run", "runs/v1": "v1", "runs/style": "style", "sunset.jpg": "sunset.jpg"},
        **{"runs/city": "city", "cityscapes": "cityscapes", "labels": "mine/labels/val"},
        **dict.fromkeys(("label.png", "a.png", "b.png"), "mine/labels/val/0901.png"),
    },
    "label": {"photos": "mine/images/train", "segmenters/mine": "segmenter"},
    "paint": {"label.png": "mine/labels/val/0901.png"},
    "parity": {
        "v2_normal.safetensors": "golden/v2_normal.safetensors",
        "v2_normal.json": "golden/v2_normal.json",
        "a_folder_of_such_files/v1.safetensors": "golden/v1_semantic.safetensors",
        "a_folder_of_such_files/v1.json": "golden/v1_semantic.json",
    },
    "segmenters": {
        **{"mine": "mine", "mine.yaml": "mine.yaml", "cityscapes": "cityscapes"},
    },
    "share": {"runs/mine": "run", "onnxruntime-web": "onnxruntime-web"},
    "study": {
        **dict.fromkeys(("cityscapes/labels", "labels"), "mine/labels/val"),
        **dict.fromkeys(("cityscapes/photos", "photos"), "mine/images/val"),
        **dict.fromkeys(("out/spade", "out/tsit", "out/v2"), "mine/images/val"),
    },
    "training": {
        **{"cityscapes": "cityscapes", "coco": "coco", "runs/cityscapes": "run", "my-streets.yaml": "streets.yaml"},
        "segmenters/cityscapes": "city-segmenter",
    },
}
"""What the reader of a page already has, and what stands in for it; see `tests/docs/given.py`."""

READ_ONLY = ("bibtex", "json", "nginx", "text")
"""Languages of blocks that nobody runs; directives of the documentation, such as `{image}`, are others."""

FOREIGN_OPTIONS = {
    *("--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--max-restarts"),  # torchrun
    *("--use_vae", "--data-binary"),  # the code of SPADE; curl
    *("--runs", "--directory"),  # scripts of benchmarks/; http.server
}
"""Options of other programs that the pages name."""

NAMES = {"segmenters": {"network": torch.nn.Conv2d(3, 19, 1)}}
"""What Python blocks take from the reader's own code."""

FILES = {
    "name: mine\nclasses:": "mine.yaml",
    "# mine.yaml": "mine.yaml",
    "name: camvid": "camvid.yaml",
    '{\n "size": [512, 1024]': "city.json",
}
"""Files that a page tells its reader to write, by the beginning of their block."""

STATUSES = {"lab2pix train v2-small train.bach_size=4 --out runs/x --dry-run": 2}
"""Exit statuses of commands that show an error."""

RANK = """
import json
from lab2pix.web.study.samples import Study
study = Study.load("study")
for number, sample in enumerate(study.pool):
    answer = {"id": f"answer-{number}", "participant": "Ada", "sample": sample.name, "ranking": list(study.methods)}
    with open("study/answers.jsonl", "a") as file:
        print(json.dumps({**answer, "time": "2026-01-05T10:12:08.114+00:00", "seconds": 14.2}), file=file)
"""
BEFORE = {"lab2pix study report": RANK}
"""What people do before a command, as Python, by the beginning of the command."""

SLOW: dict[str, tuple[str, ...]] = {
    "README": ("make demo",),
    "quickstart": ("make demo", "make paint", "lab2pix train v2-coco-stuff"),
    "evaluate": ("torchrun",),
    "export": ("",),
    "fit": ("lab2pix fit mine --minutes 60 --out",),
    "generate": ("torchrun",),
    "segmenters": ("lab2pix segmenter train --format cityscapes",),
    "share": ("",),
    "training": (
        *("torchrun", "lab2pix train v2-cityscapes", "lab2pix train my-streets.yaml", "def parameters"),
        *("lab2pix train v2-small --out runs/scored", "lab2pix evaluate runs/scored"),
    ),
}
"""Commands and Python blocks that only `make test-full` runs, by their beginning; they take seconds."""


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(tmp_path_factory.mktemp("given"))


@pytest.fixture
def runner(
    page: str, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Runner]:
    """Runs what a page says in a folder that holds what its reader has."""
    if request.node.get_closest_marker("xslow") is None:
        monkeypatch.setattr(monitor, "plot_losses", lambda *_: None)  # nearly half of the time of a run of one step
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    use_folders_as_hub(tmp_path / "hub", monkeypatch)
    for name, thing in GIVEN.get(page, {}).items():
        golden = thing.startswith("golden/") and request.getfixturevalue("golden_root")
        given.copy(thing, tmp_path / name, golden)
    for block in blocks(page):
        for start, name in FILES.items():
            if block.text.startswith(start):
                (tmp_path / name).write_text(replaced(page, block.text))
    runner = Runner(lambda text: replaced(page, text), monkeypatch, {"__name__": page, **NAMES.get(page, {})})
    yield runner
    runner.stop()


def run_page(page: str, runner: Runner, skipped: tuple[str, ...]) -> None:
    """Run all blocks of a page in order, without the commands and Python blocks that begin with one of `skipped`."""
    for block in blocks(page):
        for part in block.parts:
            if part.startswith(skipped):
                continue
            for start, text in BEFORE.items():
                if part.startswith(start):
                    runner.python(text, start)
            if block.language == "python":
                runner.python(replaced(page, part), str(PAGES[page]))
            else:
                runner.command(replaced(page, part), STATUSES.get(part, 0))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if SLOW.get(page) != ("",)])
def test_every_block_runs(page: str, runner: Runner) -> None:
    run_page(page, runner, SLOW.get(page, ()))


@pytest.mark.xslow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", SLOW)
def test_slow_blocks_run(page: str, runner: Runner) -> None:
    run_page(page, runner, ())


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_known_language(page: str) -> None:
    assert not re.search(r"^ +```|^ *~~~", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE)
    for block in blocks(page):
        assert block.language in ("console", "python", "yaml", *READ_ONLY) or block.language[0] == "{", block.text
        assert block.language != "console" or block.text.startswith("$ "), block.text


def test_settings_in_the_pages_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for number, block in enumerate(block for block in blocks(page) if block.language == "yaml"):
            file = tmp_path / f"{page}-{number}.yaml"
            file.write_text(block.text)
            if "from: " in block.text:
                own = LabelSpace.from_dict(
                    {"name": "own", "classes": ["sky", "tree", "grass", "plant", "flower", "person"]}
                )
                assert ClassMapping.read(file, own).space.num_classes == 3
            elif "classes:" in block.text:
                assert LabelSpace.load(file).num_classes > 1
            else:
                assert load_config(
                    file if "base:" in block.text else {"base": "v2-small", **yaml.safe_load(block.text)}
                )


def test_every_option_in_the_pages_exists() -> None:
    def options(command: Any) -> set[str]:
        found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        return found.union(*(options(part) for part in getattr(command, "commands", {}).values()))

    known = options(get_command(cli.app)) | FOREIGN_OPTIONS
    for page, file in PAGES.items():
        named = re.findall(r"(?<![\w-])--[a-z][\w-]+", file.read_text(encoding="utf-8"))
        assert [option for option in named if option not in known] == [], page


def test_every_row_of_the_tables_is_in_use() -> None:
    texts = {page: "\n".join(part for block in blocks(page) for part in block.parts) for page in PAGES}
    files = {page: "\n".join(block.text for block in blocks(page)) for page in PAGES}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)/", "")
    everything = "\n".join([*files.values(), *texts.values(), makefile])
    for page, rows in REPLACED.items():
        text = everything if page == "every page" else files[page] + texts[page]
        assert [old for old in rows if old not in text] == [], page
    for page, rows in SLOW.items():
        assert [start for start in rows if not re.search(f"^{re.escape(start)}", texts[page], re.MULTILINE)] == [], page
    for table in (STATUSES, BEFORE, FILES):
        assert [start for start in table if start not in everything] == []
    assert {*GIVEN, *NAMES} <= set(PAGES)


def test_install_lines_name_extras_and_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].keys() - {"dev", "docs"}
    pages = [*PAGES.values(), ROOT / "docs/faq.md", ROOT / "docs/index.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = re.findall(r"pip install '([^']*)\[([\w,]+)\]'", text)
    assert {source for source, _ in named} <= {".", f"dist/lab2pix-{project['version']}-py3-none-any.whl"}
    assert {extra for _, listed in named for extra in listed.split(",")} <= extras
    table = PAGES["quickstart"].read_text(encoding="utf-8").partition("## Extras")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == extras
    assert not re.search(r"pip install '?lab2pix\b", text)
