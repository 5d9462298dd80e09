from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mist_ops.files import (
    atomic,
    atomic_folder,
    file_hash,
    json_hash,
    remove_leftovers,
    stamp,
    stamps,
    write_array,
    write_json,
    write_text,
)


def _break_off(path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError


def test_a_block_that_fails_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(RuntimeError):
        _break_off(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _break_off_folder(path: Path) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "new.html").write_text("half of the n")
        raise RuntimeError


def test_a_folder_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    for name in ("first.html", "second.html"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name)
    with pytest.raises(RuntimeError):
        _break_off_folder(path)
    assert [page.name for page in path.iterdir()] == ["second.html"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_ends_in_the_same_name(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "image.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
    assert (tmp_path / "new" / "image.nii.gz").exists()


def test_a_written_file_has_default_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "other").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "other")]
    assert modes[0] == modes[1]


def test_json_keeps_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": 1, "a": [1.5, None]})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["z", "a"]


def test_nan_is_refused_and_no_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_arrays_are_stored_in_c_order(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    write_array(tmp_path / "a.npy", array)
    read = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, array)


def test_the_hash_of_json_does_not_depend_on_the_order_of_keys() -> None:
    assert json_hash({"a": 1, "b": 2}) == json_hash({"b": 2, "a": 1}) != json_hash({"a": 1, "b": 3})


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_only_temporary_files_of_processes_that_no_longer_exist_are_removed(tmp_path: Path) -> None:
    leave = """
import os, sys
from pathlib import Path
from mist_ops.files import atomic, temporary_folder
folder = Path(sys.argv[1])
with atomic(folder / "a.npy") as path, temporary_folder(folder) as made:
    path.write_text("half")
    (made / "b.npy").write_text("half")
    os._exit(9)
"""
    (tmp_path / "sub").mkdir()
    mine = (".tmp-notes", ".tmp-0123-mine-abcdefgh-a.npy", ".tmp", "sub/.tmp-0000-1-abcdefgh")
    for name in mine:
        (tmp_path / name).write_text("of someone else")
    for folder in (tmp_path, tmp_path / "sub"):
        assert subprocess.run([sys.executable, "-c", leave, folder], check=False).returncode == 9
    left = {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / name for name in mine}
    assert len(left) == 4
    with atomic(tmp_path / "c.npy") as path:
        path.write_text("being written")
        remove_leftovers(tmp_path, tmp_path / "missing")
    kept = {tmp_path / name for name in (*mine, "c.npy")}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == kept | {
        path for path in left if path.is_relative_to(tmp_path / "sub")
    }


def test_stamps_are_those_of_the_files_that_exist(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    names = ("file", "missing", "file/below", ".", "loop")
    assert stamps({name: tmp_path / name for name in names}) == {"file": stamp(tmp_path / "file")}
