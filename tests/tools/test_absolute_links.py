"""README as a package index shows it, and what the source distribution holds."""

from __future__ import annotations

import re
from pathlib import Path

from tools.absolute_links import absolute_links

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/owner/name"


def test_links_and_images_become_absolute_and_others_stay() -> None:
    text = "![a](docs/a.jpg) [b](docs/b.md#part) [c](#here) [d](https://example.org) [A\\|B [x] ](LICENSE)"
    assert absolute_links(text, REPOSITORY + "/", "v1") == (
        f"![a]({REPOSITORY}/raw/v1/docs/a.jpg) [b]({REPOSITORY}/blob/v1/docs/b.md#part) [c](#here) "
        f"[d](https://example.org) [A\\|B [x] ]({REPOSITORY}/blob/v1/LICENSE)"
    )


def test_readme_links_to_files_that_exist_and_all_become_absolute() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)\s]+)\)", readme) if not link.startswith(("http", "#"))]
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []
    links = re.findall(r"\]\(([^)\s]+)\)", absolute_links(readme, REPOSITORY, "v1"))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_source_distribution_holds_tests_docs_and_tools() -> None:
    rules = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").split()
    for folder in ("tests", "docs", "tools", "benchmarks", "examples"):
        assert folder in rules
