"""Pseudonyms: no id, note or path is left in a pack, and the same key gives the same names."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from expect import refuses

from mist_ops.evidence import standalone
from mist_ops.evidence.names import Names, read_key
from mist_ops.evidence.pack import write_pack
from mist_ops.evidence.sources import models_of
from mist_ops.evidence.verify import compare_scans, verify_pack
from mist_ops.records.passport import Content, Encoder, Source, read_passport, write_passport
from mist_ops.study import Study

KEY, OTHER = b"k" * 32, b"o" * 32


def write(study: Study, path: Path, key: bytes = KEY, *models: Path) -> Path:
    write_pack(study, list(models) or models_of(study.models), path, key)
    return path


def names_in(pack: Path) -> set[str]:
    with zipfile.ZipFile(pack) as archive:
        return set(json.loads(archive.read("provenance.json"))["patients"])


def test_no_id_note_or_path_is_left_in_any_byte(study: Study, tmp_path: Path) -> None:
    passport = read_passport(study.model(0))
    source = Source(fold=0, content=Content(training={"another_study_7": "a" * 64}))
    encoder = Encoder(
        weights="w",
        config="c",
        architecture="nnunet",
        input_channels="average",
        loaded=1,
        loaded_values=1,
        adapted=(),
        skipped=(),
        passport=source,
    )
    note = f"kept on 2026-01-31: Mr. Miller ({study.results})"
    write_passport(study.passport(0), passport.model_copy(update={"pretrained": encoder, "kept": (note,)}))
    content = write(study, tmp_path / "pack.zip").read_bytes()
    words = [b"phantom_0", b"another_study_7", b"Miller", str(tmp_path).encode(), b"results/"]
    assert [word for word in words if word in content] == []
    kept = write(study, tmp_path / "plain.zip").read_bytes()
    assert kept == content


def test_a_pack_with_pseudonyms_passes_both_verifiers(study: Study, tmp_path: Path) -> None:
    pack = write(study, tmp_path / "pack.zip")
    verified = verify_pack(pack)
    assert (verified.problems, verified.pseudonyms, verified.events) == ([], True, 3)
    assert list(standalone.problems(pack, study.results.parent / "data")) == []


def test_the_same_key_gives_the_same_names_in_every_pack(study: Study, tmp_path: Path) -> None:
    both = names_in(write(study, tmp_path / "both.zip"))
    one = names_in(write(study, tmp_path / "one.zip", KEY, study.model(0)))
    assert (len(both), one) == (4, both)
    assert all(re.fullmatch(r"p[0-9a-f]{12}", name) for name in both)
    assert not both & names_in(write(study, tmp_path / "other.zip", OTHER))
    with zipfile.ZipFile(tmp_path / "both.zip") as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    judged = Names({"phantom_002"}, KEY)("phantom_002")
    for name in ("history.jsonl", "reviews.csv", "folds.csv", "scores.csv", "croissant.json", "passports/fold_1.json"):
        assert judged in members[name], name


def test_scans_are_compared_without_the_key_and_named_with_it(study: Study, tmp_path: Path) -> None:
    verified = verify_pack(write(study, tmp_path / "pack.zip"))
    data = study.results.parent / "data"
    assert compare_scans(verified, data) == []
    with (data / "train" / "phantom_002" / "t1.nii.gz").open("ab") as stream:
        stream.write(b"\0")
    name = Names((), KEY)("phantom_002")
    assert compare_scans(verified, data) == [f"{name}: t1 differs or is missing."]
    assert compare_scans(verified, data, KEY) == [f"{name}: t1 differs."]


def test_an_id_that_is_also_another_word_is_refused(study: Study) -> None:
    names = Names({"fold_0", "phantom_001"}, KEY)
    with refuses("id-in-pack", case="fold_0"):
        names.check({"folds.csv": b"id,fold_0"})
    names.check({"folds.csv": b"id,fold_01"})
    for content in (b'"M\\u00fcller 1"', "Müller 1".encode(), b"train/M%C3%BCller%201/t1"):
        with refuses("id-in-pack", case="Müller 1"):
            Names({"Müller 1"}, KEY).check({"croissant.json": content})
    Names({"fold_0"}).check({"folds.csv": b"id,fold_0"})
    Names({"007"}, KEY).check({"folds.csv": b"007"})  # as in many a hash


@pytest.mark.parametrize(
    "text, expected",
    [
        ("the mask of a.1 changed", "the mask of {} changed"),
        ("the mask of a.12 changed", "the mask of a.12 changed"),
        ("in /data/x y/a.1.nii.gz", "in (path) y/{}.nii.gz"),
        ("~/study and C:\\study", "(path) and (path)"),
        ("1/2 of it", "1/2 of it"),
    ],
)
def test_messages_name_patients_by_pseudonym_and_no_paths(text: str, expected: str) -> None:
    names = Names({"a.1", "b"}, KEY)
    assert names.text(text) == expected.format(names("a.1"))
    assert Names({"a.1"}).text(text) == text


def test_values_are_renamed_wherever_an_id_occurs() -> None:
    names = Names({"a", "b"}, KEY)
    value = {"a": ["b", {"x": "a changed"}], "n": 1}
    assert names.value(value) == {names("a"): [names("b"), {"x": f"{names('a')} changed"}], "n": 1}


def test_a_key_is_written_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key"
    key = read_key(path)
    assert (len(key), path.stat().st_mode & 0o777) == (32, 0o600)
    assert read_key(path) == key != read_key(tmp_path / "other")


def test_another_file_is_not_taken_for_a_key(tmp_path: Path) -> None:
    image = tmp_path / "t1.nii.gz"
    image.write_bytes(b"\x1f\x8b\x00")
    with refuses("key-invalid", file=image):
        read_key(image)
    with pytest.raises(FileNotFoundError):
        read_key(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
