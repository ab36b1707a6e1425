"""Take pictures of the painter in Chromium, and write those of the guide in small beside them.

python -m tools.painter_screenshots MODEL OUT && cp OUT/painter-*.png docs/images

MODEL is whatever `lab2pix paint` takes, trained on drawn scenes. Needs `lab2pix[dev]` and the system's Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

WINDOWS = {"wide": (1440, 900), "middle": (1024, 768), "tablet": (768, 1024), "phone": (390, 844)}
TOUCH = ("tablet", "phone")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
EXAMPLE = 1
VARIATION = 4
HOUSE = ((0.30, 0.92), (0.30, 0.80), (0.40, 0.72), (0.50, 0.80), (0.50, 0.92))
BOAT = ((0.56, 0.66), (0.76, 0.66), (0.72, 0.72), (0.60, 0.72))
"""Corners of what is added to the example, in widths and heights of the drawing."""


class Camera:
    """Takes pictures of a page.

    Args:
        page: the browser's.
        out: folder for the pictures.
        ending: of their names.
    """

    def __init__(self, page: Page, out: Path, ending: str) -> None:
        self.page, self.out, self.ending = page, out, ending

    def shoot(self, name: str, *, whole: bool = False) -> None:
        """Take a picture of the window, or the whole page, once it has come to rest."""
        self.page.locator("#image-stage[aria-busy=false]").wait_for()
        self.page.wait_for_timeout(400)  # for what moves
        self.page.screenshot(path=self.out / f"{name}-{self.ending}.png", full_page=whole)

    def go_on(self, key: str) -> None:
        """Press a key, and let the page answer."""
        self.page.keyboard.press(key)
        self.page.wait_for_timeout(150)


def point(page: Page, place: tuple[float, float]) -> tuple[float, float]:
    """Return where a place of the drawing is on the screen."""
    frame = page.locator("#canvas").bounding_box()
    assert frame is not None
    return frame["x"] + place[0] * frame["width"], frame["y"] + place[1] * frame["height"]


def walk(page: Page, address: str, camera: Camera) -> None:
    """Go through what the painter shows, and take a picture of each state."""
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    camera.shoot("start")
    camera.go_on("o")
    camera.shoot("choose")
    page.locator("#examples .tile").nth(EXAMPLE).click()
    camera.go_on("p")
    for corners, label in ((HOUSE, "house"), (BOAT, "boat")):
        page.get_by_role("radio", name=label, exact=True).check()
        page.evaluate("scrollTo(0, 0)")
        for corner in corners:
            page.mouse.click(*point(page, corner))
        if label == "house":
            camera.shoot("polygon")
        camera.go_on("Enter")
    camera.go_on("b")
    camera.shoot("drawn")
    page.locator("#blend-on").check()
    camera.go_on("v")
    page.locator("#variations[aria-busy=false]").wait_for()
    page.evaluate("scrollTo(0, 0)")
    camera.shoot("varied", whole=True)
    page.locator("#variations button").nth(VARIATION).click()
    camera.shoot("large")
    page.keyboard.press("Escape")
    page.locator("#blend-on").uncheck()
    camera.go_on("m")
    page.evaluate("scrollTo(0, 0)")
    camera.shoot("compared")
    camera.go_on("m")
    camera.go_on("d")
    camera.go_on("ArrowRight")
    camera.shoot("keyboard")
    page.locator("#save-menu summary").click()
    camera.shoot("download")
    page.keyboard.press("Escape")
    camera.go_on("?")
    camera.shoot("help")
    page.keyboard.press("Escape")
    page.locator("#file").set_input_files([{"name": "film.gif", "mimeType": "image/gif", "buffer": b"GIF89a"}])
    camera.shoot("refused")


def shoot_all(browser: Browser, address: str, out: Path) -> None:
    """Take the pictures in all widths, light and dark."""
    for window, (width, height) in WINDOWS.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                has_touch=window in TOUCH,
                is_mobile=window in TOUCH,
            )
            page = context.new_page()
            walk(page, address, Camera(page, out, f"{window}-{scheme}"))
            context.close()


def write_small(out: Path) -> None:
    """Write the pictures of the guide: in few colors."""
    for name, source, width in (
        ("page", "varied-wide-light", 960),
        ("tablet", "varied-tablet-light", 576),
        ("phone", "drawn-phone-dark", 390),
    ):
        picture = Image.open(out / f"{source}.png").convert("RGB")
        picture = picture.resize((width, round(width * picture.height / picture.width)), Image.Resampling.LANCZOS)
        picture.quantize(256, kmeans=4, dither=Image.Dither.NONE).save(out / f"painter-{name}.png", optimize=True)


def main() -> None:
    """Serve the painter, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a checkpoint or a weights folder")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("There is no Chromium here; install it with the system's packages.")
    command = [sys.executable, "-m", "lab2pix", "paint", arguments.model, "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        found = re.search(r"http://\S+/", server.stdout.readline())
        assert found is not None
        try:
            browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
            shoot_all(browser, found.group(), out)
            browser.close()
        finally:
            server.terminate()
    write_small(out)


if __name__ == "__main__":
    main()
