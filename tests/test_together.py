"""Files that belong together: a process that is killed between two renames leaves the former or the new ones, whole."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from mist_ops.files import remove_leftovers, settle, together

KILLED = 9

KILL = """
import os, sys
from pathlib import Path
left, real = int(sys.argv[1]), os.replace

def replace(source, target):
    global left
    if ".replacing-" in str(target) or begun:
        begun.append(target)
        left -= 1
        if left < 0:
            os._exit(9)
    real(source, target)

begun = []
os.replace = replace
"""

FILES = """
from mist_ops.files import together
folder = Path(sys.argv[2])
with together(folder) as files:
    for name in ("a", "sub/b"):
        files.write(folder / name).write_text("new")
    (folder / "made").mkdir()
    (folder / "made" / "new").touch()
    files.move(folder / "made", folder / "logs")
    files.remove(folder / "gone")
"""


def killed_at(number: int, code: str, *arguments: object) -> int:
    """Run code in a process that is killed at a rename, counted from that of the journal on; return its status."""
    words = [sys.executable, "-c", KILL + code, str(number), *map(str, arguments)]
    return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode


def state(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_files_and_folders_replace_others_together_or_not_at_all(tmp_path: Path) -> None:
    former = {"a": "old", "sub/b": "old", "logs/old": "", "gone": "old"}
    new = {"a": "new", "sub/b": "new", "logs/new": ""}
    found = []
    for number in range(7):
        folder = tmp_path / f"m{number}"
        for name, text in former.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        status = killed_at(number, FILES, folder)
        copied = tmp_path / f"moved{number}"
        folder.rename(copied)  # what is left to do belongs to the copy
        settle(copied)
        remove_leftovers(copied, copied / "sub")
        left = state(copied)
        left.pop("made/new", None)  # of the caller
        assert left in (former, new)
        found.append((status, left == new))
    assert found[0] == (KILLED, False)
    assert found[1:] == [(KILLED, True)] * 4 + [(0, True)] * 2


def break_off(folder: Path) -> None:
    with together(folder) as files:
        files.write(folder / "a").write_text("new")
        files.remove(folder / "a")
        raise RuntimeError


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError):
        break_off(tmp_path)
    assert state(tmp_path) == {"a": "old"}


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "[]",
        '{"moves": 3, "removed": []}',
        '{"moves": [["a"]], "removed": []}',
        '{"moves": [["a", "../out", ".tmp-a"]], "removed": []}',
        '{"moves": [["../out", "b", ".tmp-a"]], "removed": []}',
        '{"moves": [["a", "b", "out"]], "removed": []}',
        '{"moves": [["a", "b", "../out/.tmp-a"]], "removed": []}',
        '{"moves": [], "removed": ["../out/file"]}',
    ],
)
def test_a_journal_of_somebody_else_cannot_reach_beyond_its_folder(tmp_path: Path, journal: str) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    for path in (folder / "a", out / "file"):
        path.parent.mkdir()
        path.write_text("old")
    (folder / ".replacing-1").write_text(journal)
    settle(folder)
    assert state(out) == {"file": "old"}
    assert (folder / "a").read_text() == "old"
    assert not (folder / ".replacing-1").exists()


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with together(tmp_path) as files:
        files.write(tmp_path / "a").write_text("new")
    assert state(tmp_path) == {"a": "new"}
