"""Words that the project does not use where users and readers see them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

REPLACED = {
    r"told|tells?|anew|nobody|anybody|whom": "report, show; again, from scratch; no one",
    r"wish(es|ed)?": "request, preference",
    r"made again|done again|make again": "rebuild, rerun, retrain",
    r"stands? on|goes on|gone on": "depends on; resumes, continues",
    r"(is|are|were|was) to be [a-z]+ed": "needs ...ing, will be ...ed",
    r"whole numbers?": "integers",
    r"left out": "excluded, skipped, omitted",
    r"raters to one": "label fusion",
    r"may only be read": "is read-only",
    r"what there is|is not there": "missing, existing",
}
"""Words that read quaint, and what to write instead. The spelling is checked by codespell."""

PRODUCT = [
    "mist_ops",
    "mist_dagster",
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs",
    "bench",
    "deploy",
    "Makefile",
]
SUFFIXES = {".py", ".md", ".yaml", ".toml", ".html", ".sh", ""}


def product_files() -> list[Path]:
    """The files with text that users or readers see; tests of misspelled settings are not among them."""
    listed = subprocess.run(["git", "ls-files", *PRODUCT], cwd=ROOT, check=True, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.splitlines()]
    known = [path for path in files if path.suffix in SUFFIXES and path.name != "faults.md" and path.is_file()]
    return [path for path in known if "vendor" not in path.parts]  # scripts and licenses of others


@pytest.mark.parametrize("words", REPLACED)
def test_words_that_read_quaint_are_not_used(words: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("the files are listed by git")
    pattern = re.compile(rf"(?<!\.)\b({words})\b(?!\()", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in product_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == [], f"write {REPLACED[words]}"
