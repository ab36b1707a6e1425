"""python tools/absolute_links.py FILE --repository URL --ref TAG: make the relative links of a Markdown file absolute.

A package index shows README.md without the files around it. Images point to their raw content, other links to the page
of the file, both at the tag of the release. The file is changed in place.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute_links(text: str, repository: str, ref: str) -> str:
    """Return Markdown with absolute links.

    Args:
        text: the Markdown.
        repository: address of a GitHub repository, `https://github.com/OWNER/NAME`.
        ref: tag, branch or commit.
    """
    repository = repository.rstrip("/")

    def replace(match: re.Match[str]) -> str:
        mark, shown, target = match.groups()
        kind = "raw" if mark else "blob"
        return f"{mark}[{shown}]({repository}/{kind}/{ref}/{target})"

    return _LINK.sub(replace, text)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--repository", required=True, help="https://github.com/OWNER/NAME")
    parser.add_argument("--ref", required=True, help="tag of the release")
    args = parser.parse_args()
    text = args.file.read_text(encoding="utf-8")
    args.file.write_text(absolute_links(text, args.repository, args.ref), encoding="utf-8")


if __name__ == "__main__":
    main()
