"""Console blocks of the docs: where each one runs, or why it does not.

A comment before a block says so: ``<!-- run in: trained; 2000 -> 2 -->`` runs it in a copy of a folder that a test
prepares, with text replaced where the example would take hours, and ``<!-- not run: needs a cluster -->`` does not. A
block without a comment, or with ``<!-- continue; 2000 -> 2 -->``, runs where the one before it ran.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"(?:^ *<!-- (?P<comment>.*?) -->\n)?^ *```console\n(?P<text>(?s:.*?))^ *```", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """The commands of a console block.

    Attributes:
        page: Path from the root of the repository.
        line: Line of the block in the page.
        folder: Name of the folder that it runs in, or None if it continues in that of the block before it.
        skipped: Why it is not run; empty if it is.
        commands: Command lines, without the prompt.
        replaced: Pairs of texts; the first is replaced by the second before the commands run.
    """

    page: str
    line: int
    folder: str | None
    skipped: str
    commands: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...]

    @property
    def script(self) -> str:
        """What a shell runs."""
        text = "\n".join(self.commands)
        for old, new in self.replaced:
            text = text.replace(old, new)
        return text


def blocks(page: Path) -> Iterator[Block]:
    """Yield the console blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        where, *replaced = (found["comment"] or "").split("; ")
        kind, _, folder = where.partition(": ")
        yield Block(
            page=page.relative_to(ROOT).as_posix(),
            line=text.count("\n", 0, found.start()) + 1,
            folder=folder if kind == "run in" else None,
            skipped=folder if kind == "not run" else "",
            commands=tuple(_commands(found["text"])),
            replaced=tuple(_pair(part) for part in replaced if kind != "not run"),
        )


def _commands(text: str) -> Iterator[str]:
    for line in re.findall(r"^ *\$ ((?:.*\\\n)*.*)", text, re.MULTILINE):
        yield re.sub(r"\\\n\s*", "", line)


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.partition(" -> ")
    return old, new
