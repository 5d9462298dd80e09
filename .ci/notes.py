"""Print the section of CHANGELOG.md for a version, as the notes of its release: python .ci/notes.py v1.0.0."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main(tag: str) -> int:
    """Print the notes; return 1 if the changelog has no section for the tag."""
    text = Path("CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^## \[{re.escape(tag.removeprefix('v'))}\].*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    if section is None:
        sys.stderr.write(f"CHANGELOG.md has no section for {tag}.\n")
        return 1
    sys.stdout.write(f"{section[1].strip()}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
