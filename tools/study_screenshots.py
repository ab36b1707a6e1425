"""Take pictures of the user study's pages in Chromium, and write those of the guide in small beside them.

python -m tools.study_screenshots OUT && cp OUT/study-*.png docs/images

The methods are drawn scenes that were blurred, made noisy, or the like; most rankings are by people who are made up.
Needs `lab2pix[dev]` and the system's Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from playwright.sync_api import Browser, Page, sync_playwright

from lab2pix.data.label_maps import write_label_png
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.labels.space import LabelSpace
from lab2pix.web.study.build import build_study
from lab2pix.web.study.page import save_report
from lab2pix.web.study.report import report_study
from lab2pix.web.study.samples import Study
from lab2pix.web.study.store import AnswerStore

SIZE, SAMPLES = (192, 256), 6
WINDOWS = {"wide": (1440, 900), "phone": (390, 844)}
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")

METHODS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(4)),
    "noisy": lambda picture: Image.blend(picture, Image.effect_noise(picture.size, 90).convert("RGB"), 0.4),
    "faded": lambda picture: ImageEnhance.Color(picture).enhance(0.35),
    "coarse": lambda picture: picture.resize((40, 30)).resize(picture.size, Image.Resampling.NEAREST),
    "softened": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.8)),
}


def make(folder: Path) -> Path:
    """Make a study of drawn scenes; return its folder."""
    space = LabelSpace.load("scenes")
    for kind in ("labels", "truth", *METHODS):
        (folder / kind).mkdir()
    for index in range(SAMPLES):
        pixels, ids = draw_scene(11, index, SIZE)
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        picture.save(folder / "truth" / f"{index}.png")
        write_label_png(folder / "labels" / f"{index}.png", ids, space)
        for name, alter in METHODS.items():
            alter(picture).save(folder / name / f"{index}.png")
    methods = {name: folder / name for name in METHODS}
    built = build_study(
        folder / "labels", space, methods, folder / "study", truth=folder / "truth", samples=SAMPLES, seed=2
    )
    return built.folder


def rank(folder: Path, people: int) -> None:
    """Let made-up people rank, each with a taste that leans to the last method."""
    study, lot = Study.load(folder), np.random.default_rng(0)
    with AnswerStore(folder, study) as store:
        for person in range(people):
            name = f"Person {person + 1}"
            for number, task in enumerate(study.tasks(name)):
                order = (np.linspace(0, 1.6, len(METHODS)) + lot.normal(size=len(METHODS))).argsort()[::-1]
                ranking = [list(METHODS)[index] for index in order]
                store.append(f"{person:04d}-{number:04d}", name, task.sample.name, ranking, float(lot.uniform(8, 25)))


def walk(page: Page, address: str, name: str, shoot: Callable[[Page, str], None]) -> None:
    """Go from the beginning to the end, and take a picture at each place."""
    page.goto(address)
    page.get_by_label("Your name").wait_for()
    shoot(page, "start")
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    for sample in range(SAMPLES):
        page.locator("#count", has_text=f"Sample {sample + 1} of {SAMPLES}").wait_for()
        page.wait_for_load_state("networkidle")
        cards = page.locator("#cards .image")
        if sample == 0:
            shoot(page, "fresh")
        for number in (3, 1, 4):
            cards.nth(number).click()
        if sample == 1:
            shoot(page, "ranking")
        for number in (0, 2):
            cards.nth(number).click()
        if sample == 1:
            shoot(page, "ranked")
            cards.nth(1).press("z")
            page.locator("#large").wait_for()
            shoot(page, "large")
            page.keyboard.press("Escape")
        page.locator("#next").click()
    page.get_by_role("heading", name="Thank you").wait_for()
    shoot(page, "end")


def shoot_all(browser: Browser, address: str, report: Path, out: Path) -> None:
    """Take pictures of study and report in both widths, light and dark."""
    names = iter(("Ada", "Grace", "Mary", "Rosalind"))
    for window, (width, height) in WINDOWS.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                has_touch=window == "phone",
                is_mobile=window == "phone",
            )
            page = context.new_page()
            ending = f"{window}-{scheme}.png"

            def shoot(page: Page, name: str, ending: str = ending) -> None:
                page.wait_for_timeout(300)  # for what moves
                page.screenshot(path=out / f"{name}-{ending}")

            walk(page, address, next(names), shoot)
            page.goto(report.as_uri())
            page.screenshot(path=out / f"report-{ending}", full_page=True)
            context.close()


def write_small(out: Path) -> None:
    """Write the pictures of the guide: in few colors, the report's beginning only."""
    for name, source, width, height in (
        ("page", "ranking-wide-light", 1080, 675),
        ("phone", "ranking-phone-dark", 390, 844),
        ("report", "report-wide-light", 1080, 910),
    ):
        picture = Image.open(out / f"{source}.png").convert("RGB")
        picture = picture.resize((width, round(width * picture.height / picture.width)), Image.Resampling.LANCZOS)
        picture = picture.crop((0, 0, width, height))
        picture.quantize(256, kmeans=4, dither=Image.Dither.NONE).save(out / f"study-{name}.png", optimize=True)


def main() -> None:
    """Make a study, serve it, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the pictures")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("There is no Chromium here; install it with the system's packages.")
    with TemporaryDirectory() as temporary:
        folder = make(Path(temporary))
        rank(folder, 10)
        save_report(report_study(folder), Path(temporary) / "report")
        command = [sys.executable, "-m", "lab2pix", "study", "serve", str(folder), "--port", "0", "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
            assert server.stdout is not None
            found = re.search(r"http://\S+/", server.stdout.readline())
            assert found is not None
            try:
                browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
                shoot_all(browser, found.group(), Path(temporary) / "report" / "report.html", out)
                browser.close()
            finally:
                server.terminate()
    write_small(out)


if __name__ == "__main__":
    main()
