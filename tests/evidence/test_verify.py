"""Both verifiers: every changed byte is found, broken links are found even if all hashes were computed again."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from expect import refuses

from mist_ops.errors import ConfigError
from mist_ops.evidence import standalone
from mist_ops.evidence.container import packed, sha256
from mist_ops.evidence.pack import VERIFIER, write_pack
from mist_ops.evidence.sources import models_of
from mist_ops.evidence.verify import compare_scans, verify_pack
from mist_ops.study import Study


def found_by_both(pack: Path) -> bool:
    """Whether both verifiers find that a byte changed."""
    with refuses("pack-changed", ConfigError, file=pack):
        verify_pack(pack)
    return len(list(standalone.problems(pack))) == 1


def test_a_sound_pack_passes_both_verifiers(pack: Path) -> None:
    verified = verify_pack(pack)
    assert (verified.problems, verified.models, verified.patients, len(verified.scans)) == ([], 2, 5, 14)
    assert verified.events == 3
    assert list(standalone.problems(pack)) == []


def places(content: bytes) -> list[int]:
    """Random bytes, and some of each part of the file: headers, content, directory, end record, comment."""
    drawn = random.Random(0)
    parts = [content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")]
    bounds = [0, 120, *parts, len(content) - 64, len(content)]
    each = [drawn.randrange(low, high) for low, high in pairwise(bounds) for _ in range(12)]
    return [*each, *(drawn.randrange(len(content)) for _ in range(60)), 0, len(content) - 65, len(content) - 1]


def test_every_changed_byte_is_found_by_both_verifiers(pack: Path) -> None:
    content, drawn = pack.read_bytes(), random.Random(1)
    for place in places(content):
        changed = bytearray(content)
        changed[place] ^= drawn.randrange(1, 256)
        pack.write_bytes(bytes(changed))
        assert found_by_both(pack), place


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"\n",
        lambda content: b"\n" + content,
        lambda content: content[:-1],
        lambda content: content[1:],
        lambda content: content[: len(content) // 2],
        lambda content: content[:500] + content[501:],
        lambda content: content[:500] + b"x" + content[500:],
        lambda content: content[:-64] + content[-64:].upper(),
        lambda content: b"",
        lambda content: b"PK",
    ],
)
def test_bytes_that_are_added_or_removed_are_found(pack: Path, change: Callable[[bytes], bytes]) -> None:
    pack.write_bytes(change(pack.read_bytes()))
    assert found_by_both(pack)


def with_members(pack: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A pack whose members were changed by somebody who computes all hashes again."""
    with zipfile.ZipFile(pack) as archive:
        members: dict[str, Any] = {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}
    for name in list(members):
        if name.endswith(".json"):
            members[name] = json.loads(members[name])
    change(members)
    content = {
        name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in members.items()
    }
    changed = pack.with_name("changed.zip")
    changed.write_bytes(packed(content))
    return changed


def other_scan_arrays(members: dict[str, Any]) -> None:
    members["provenance.json"]["patients"]["phantom_002"]["arrays"]["image"] = sha256(b"other")
    members["provenance.json"]["patients"]["phantom_002"]["content"] = sha256(b"other")


def lost_scans(members: dict[str, Any]) -> None:
    members["provenance.json"]["patients"]["phantom_002"]["scans"] = {}


def lost_patient(members: dict[str, Any]) -> None:
    del members["provenance.json"]["patients"]["phantom_002"]


def other_weights(members: dict[str, Any]) -> None:
    members["passports/fold_0.json"]["weights"] = sha256(b"other")


def other_verdict(members: dict[str, Any]) -> None:
    members["history.jsonl"] = members["history.jsonl"].replace(b'"poor"', b'"good"')


def lost_event(members: dict[str, Any]) -> None:
    members["history.jsonl"] = b"".join(members["history.jsonl"].splitlines(keepends=True)[1:])


@pytest.mark.parametrize(
    "change, part",
    [
        (other_scan_arrays, "phantom_002"),
        (lost_scans, "phantom_002"),
        (lost_patient, "phantom_002"),
        (other_weights, "fold_0"),
        (other_verdict, "line 3"),
        (lost_event, "line 1"),
    ],
)
def test_broken_links_are_found_by_both_verifiers(
    pack: Path, change: Callable[[dict[str, Any]], None], part: str
) -> None:
    changed = with_members(pack, change)
    assert any(part in problem for problem in verify_pack(changed).problems)
    assert any(part in problem for problem in standalone.problems(changed))


def better_mean(members: dict[str, Any]) -> None:
    members["scores.json"]["columns"]["core_dice"]["mean"] = 0.99


def better_score(members: dict[str, Any]) -> None:
    head, first, rest = members["scores.csv"].split(b"\n", 2)
    members["scores.csv"] = b"\n".join([head, b",".join([*first.split(b",")[:-1], b"0.1"]), rest])


def scores_of_other_masks(members: dict[str, Any]) -> None:
    members["provenance.json"]["predictions"]["held_out"]["phantom_001"]["mask"] = sha256(b"other")


def predictions_of_other_models(members: dict[str, Any]) -> None:
    members["provenance.json"]["predictions"]["test"]["phantom_001"]["models"]["fold_0"] = sha256(b"other")


@pytest.mark.parametrize(
    "change, part",
    [
        (better_mean, "core_dice"),
        (better_score, "core_haus95"),
        (scores_of_other_masks, "phantom_001"),
        (predictions_of_other_models, "phantom_001"),
    ],
)
def test_scores_that_do_not_belong_to_the_models_are_found(
    pack: Path, change: Callable[[dict[str, Any]], None], part: str
) -> None:
    assert any(part in problem for problem in verify_pack(with_members(pack, change)).problems)


def test_members_that_are_not_those_of_a_pack_are_one_error(pack: Path) -> None:
    changed = with_members(pack, lambda members: members["provenance.json"].pop("models"))
    with refuses("pack-invalid", file=changed):
        verify_pack(changed)


def sealed(content: bytes) -> bytes:
    """A file that ends with the hash of what is before."""
    return content + sha256(content).encode()


def test_a_pack_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * 2**24)
        archive.comment = b"0" * 64
    bomb.write_bytes(sealed(bomb.read_bytes()[:-64]))
    with refuses("pack-changed", names="larger than the file"):
        verify_pack(bomb)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[]", b"{}", b"\xff", b'{"models": 1}'])
def test_records_of_any_other_form_are_one_error(pack: Path, text: bytes) -> None:
    changed = with_members(pack, lambda members: members.update({"provenance.json": text}))
    with refuses("pack-invalid", file=changed):
        verify_pack(changed)


def test_an_ordinary_zip_is_not_a_pack(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
    assert found_by_both(tmp_path / "a.zip")
    with refuses("file-missing", file=tmp_path / "none.zip"):
        verify_pack(tmp_path / "none.zip")


def test_another_hash_beside_the_pack_is_found(study: Study, pack: Path) -> None:
    other = pack.with_name("other.zip")
    study.reviews.unlink()
    write_pack(study, models_of(study.models), other)
    shutil.copy(other, pack)
    (problem,) = verify_pack(pack).problems
    assert "pack.zip.sha256" in problem


def test_scans_that_differ_or_are_missing_are_named(study: Study, pack: Path) -> None:
    data = study.results.parent / "data"
    verified = verify_pack(pack)
    assert study.data
    for where in (data, study.data):
        assert compare_scans(verified, where) == []
    assert list(standalone.problems(pack, data)) == []
    with (data / "train" / "phantom_002" / "t1.nii.gz").open("ab") as stream:
        stream.write(b"\0")
    shutil.rmtree(data / "train" / "phantom_003")
    (data / "train" / "phantom_004" / "t2.nii.gz").unlink()
    missing = [f"phantom_003: {name} is missing." for name in ("mask", "t1", "t2")]
    assert compare_scans(verified, data) == ["phantom_002: t1 differs.", *missing, "phantom_004: t2 is missing."]
    assert [line.split(" ", 2)[:2] for line in standalone.problems(pack, data)] == [
        ["phantom_002:", "t1"],
        *(["phantom_003:", name] for name in ("mask", "t1", "t2")),
        ["phantom_004:", "t2"],
    ]
    with refuses("folder-missing"):
        compare_scans(verified, data / "none")


def test_scans_are_found_under_other_names(pack: Path, study: Study, tmp_path: Path) -> None:
    for number, scan in enumerate((study.results.parent / "data").rglob("*.nii.gz")):
        shutil.copy(scan, tmp_path / "study" / "results" / f"{number}.bin")
    assert compare_scans(verify_pack(pack), study.results) == []


def test_the_verifier_in_the_pack_needs_python_alone(pack: Path, study: Study, tmp_path: Path) -> None:
    with zipfile.ZipFile(pack) as archive:
        (tmp_path / "verify.py").write_bytes(archive.read("verify.py"))
    assert (tmp_path / "verify.py").read_bytes() == VERIFIER.read_bytes()
    assert len(VERIFIER.read_text().splitlines()) <= 60

    def run(*arguments: Path) -> tuple[int, str]:
        command = [sys.executable, "-I", "-S", "verify.py", *map(str, arguments)]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout

    digest = sha256(pack.read_bytes())
    assert run(pack) == (0, f"Verified.\nSHA-256 of the pack: {digest}\n")
    assert run(pack, study.results.parent / "data")[0] == 0
    status, printed = run(pack, study.results)
    assert (status, printed.count("differs or is missing")) == (1, 14)
    pack.write_bytes(pack.read_bytes()[:-1] + b"x")
    assert run(pack)[0] == 1
