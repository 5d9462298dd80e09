"""What a pack holds, when it is refused, and that it is the same for the same study."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from expect import refuses

from mist_ops.config import override, read_config, write_config
from mist_ops.errors import ConfigError
from mist_ops.evaluation.table import summary_path
from mist_ops.evidence.dataset import CONFORMS_TO
from mist_ops.evidence.pack import write_pack
from mist_ops.evidence.sources import models_of
from mist_ops.evidence.verify import verify_pack
from mist_ops.files import file_hash, json_hash, read_object, write_json
from mist_ops.records.arrays import case_contents
from mist_ops.records.comparison import verify, without_kept
from mist_ops.records.kept import Kept, write_kept
from mist_ops.records.passport import read_passport, write_passport
from mist_ops.study import Study


def write(study: Study, path: Path, *models: Path, **options: Any) -> Path:
    write_pack(study, list(models) or models_of(study.models), path, **options)
    return path


def read(pack: Path, name: str) -> Any:
    with zipfile.ZipFile(pack) as archive:
        content = archive.read(name)
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(content.decode())))
    return json.loads(content) if name.endswith(".json") else content.decode()


def test_the_same_study_gives_the_same_bytes_wherever_it_is(study: Study, pack: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(study.results.parent, moved)
    for path in sorted(moved.rglob("*")):
        path.touch()
    copy = Study("t", numpy=moved / "numpy", results=moved / "results")
    assert write(copy, tmp_path / "again.zip").read_bytes() == pack.read_bytes()


def test_each_model_leads_to_the_hashes_of_the_scans(study: Study, pack: Path) -> None:
    links = read(pack, "provenance.json")
    assert set(links["models"]) == {"fold_0", "fold_1"}
    assert links["models"]["fold_0"]["weights"] == file_hash(study.model(0))
    scans = study.results.parent / "data" / "train"
    assert {name: patient["scans"] for name, patient in links["patients"].items()} == {
        folder.name: {name: file_hash(folder / f"{name}.nii.gz") for name in ("t1", "t2", "mask")}
        for folder in scans.iterdir()
    }
    tests = {"t1", "t2"}
    assert {name: set(patient["scans"]) for name, patient in links["test_patients"].items()} == {"phantom_001": tests}
    for case_id, record in links["predictions"]["held_out"].items():
        assert record["mask"] == file_hash(study.cv_prediction(case_id))


def test_what_is_made_from_all_models_is_in_their_pack_by_hash(study: Study, tmp_path: Path) -> None:
    study.guard.write_text("{}")
    study.calibration.write_text("[]")
    pack = write(study, tmp_path / "all.zip")
    hashes = {path.name: file_hash(path) for path in (study.guard, study.calibration)}
    assert read(pack, "provenance.json")["beside"] == hashes
    assert file_hash(study.guard) in read(pack, "model_card.md")
    assert read(write(study, tmp_path / "one.zip", study.model(0)), "provenance.json")["beside"] == {}


def test_passports_and_settings_are_those_of_the_study(study: Study, pack: Path) -> None:
    with zipfile.ZipFile(pack) as archive:
        for fold in (0, 1):
            assert archive.read(f"passports/fold_{fold}.json") == study.passport(fold).read_bytes()
        assert archive.read("history.jsonl") == study.history.read_bytes()
    assert read(pack, "config.json") == json.loads(read_config(study.config).model_dump_json())
    roles = {row["id"]: row for row in read(pack, "folds.csv")}
    passport = read_passport(study.model(1))
    assert {case_id for case_id, row in roles.items() if row["fold_1"] == "training"} == set(passport.training)
    assert {case_id for case_id, row in roles.items() if "held out" in row["fold_1"]} == set(passport.held_out)


def test_scores_and_intervals_are_those_of_the_evaluation(study: Study, pack: Path) -> None:
    scores = read(pack, "scores.json")
    assert scores["columns"] == read_object(summary_path(study.results_csv))["columns"]
    assert {change["difference"] for change in scores["accepted"]["changes"].values()} == {0.0}
    with study.results_csv.open() as stream:
        table = {row["id"]: row for row in csv.DictReader(stream)}
    rows = read(pack, "scores.csv")
    assert len(rows) == 4
    assert all(table[row["id"]] == row for row in rows)


def test_a_pack_of_a_fold_holds_the_scores_of_the_patients_that_it_holds_out(study: Study, tmp_path: Path) -> None:
    pack = write(study, tmp_path / "one.zip", study.model(0))
    held_out = read_passport(study.model(0)).held_out
    assert {row["id"] for row in read(pack, "scores.csv")} == set(held_out)
    values = [float(row["core_dice"]) for row in read(pack, "scores.csv")]
    column = read(pack, "scores.json")["columns"]["core_dice"]
    assert (column["mean"], column["patients"]) == (pytest.approx(sum(values) / len(values)), 2)
    assert min(values) - 1e-6 <= column["low"] <= column["high"] <= max(values) + 1e-6
    assert read(pack, "provenance.json")["test_patients"] == {}  # both models predicted them
    assert verify_pack(pack).problems == []


def test_notes_of_people_are_not_in_a_pack(pack: Path) -> None:
    assert read(pack, "reviews.csv") == [{"id": "phantom_002", "verdict": "poor"}]
    assert "see " not in read(pack, "history.jsonl")


def test_the_model_card_repeats_facts_on_record(study: Study, pack: Path) -> None:
    card = read(pack, "model_card.md")
    for part in (
        file_hash(study.model(0)),
        "nnunet-pocket",
        "1 test patient",
        "Verdict: poor | 1",
        "core_dice",
        "4 of 4 also",
    ):
        assert part in card
    assert "phantom_0" not in card


def test_the_bill_of_materials_lists_weights_and_packages(study: Study, tmp_path: Path) -> None:
    passport = read_passport(study.model(0)).model_copy(update={"packages": {"Scipy_x": "1.0+cpu"}})
    write_passport(study.passport(0), passport)
    bill = read(write(study, tmp_path / "pack.zip"), "sbom.json")
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert not {"serialNumber", "timestamp"} & {*bill, *bill["metadata"]}
    found = {component["bom-ref"]: component for component in bill["components"]}
    assert len(found) == len(bill["components"])
    assert found["fold_0"]["hashes"] == [{"alg": "SHA-256", "content": file_hash(study.model(0))}]
    assert found["fold_0"]["type"] == "machine-learning-model"
    assert found["Scipy_x==1.0+cpu"]["purl"] == "pkg:pypi/scipy-x@1.0%2Bcpu"
    assert [each["value"] for each in found["Scipy_x==1.0+cpu"]["properties"]] == ["fold_0"]
    assert f"torch=={passport.versions['torch']}" in found
    depends = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert depends["models"] == ["fold_0", "fold_1"]
    assert "Scipy_x==1.0+cpu" in depends["fold_0"]
    assert "Scipy_x==1.0+cpu" not in depends["fold_1"]
    assert {each for every in depends.values() for each in every} <= set(found)


def test_the_dataset_is_described_in_croissant(study: Study, pack: Path) -> None:
    described = read(pack, "croissant.json")
    assert (described["@type"], described["conformsTo"]) == ("sc:Dataset", CONFORMS_TO)
    assert "4 patients with masks; 1 test patient" in described["description"]
    files = {each["@id"]: each for each in described["distribution"]}
    assert len(files) == len(described["distribution"]) == 1 + 4 * 3 + 2
    assert all({"name", "contentUrl", "encodingFormat", "sha256"} <= set(each) for each in files.values())
    mask = study.results.parent / "data" / "train" / "phantom_002" / "mask.nii.gz"
    assert files["train/phantom_002/mask"]["sha256"] == file_hash(mask)
    assert re.fullmatch(r"ni:///sha-256;[\w-]{43}", files["test/phantom_001/t1"]["contentUrl"])
    with zipfile.ZipFile(pack) as archive:
        assert files["folds.csv"]["sha256"] == json.loads(archive.read("manifest.json"))["members"]["folds.csv"]
    (records,) = described["recordSet"]
    assert [field["source"]["extract"]["column"] for field in records["field"]] == ["id", "fold_0", "fold_1"]
    assert all(field["source"]["fileObject"]["@id"] in files for field in records["field"])


def test_the_hash_beside_a_pack_is_read_by_sha256sum(pack: Path) -> None:
    command = ["sha256sum", "--check", f"{pack.name}.sha256"]
    assert subprocess.run(command, cwd=pack.parent, check=False, capture_output=True).returncode == 0


def test_another_pack_is_not_replaced_by_default(study: Study, pack: Path) -> None:
    write(study, pack, overwrite=False)  # the same one
    study.reviews.unlink()
    with refuses("output-exists", file=pack):
        write(study, pack, overwrite=False)
    write(study, pack)
    assert read(pack, "reviews.csv") == []


def edit_record(study: Study, **values: object) -> None:
    trained = read_passport(study.model(0)).training[0]
    path = study.geometry(trained)
    write_json(path, {**read_object(path), **values})


REFUSED: dict[str, tuple[Callable[[Study], object], str]] = {
    "no passport": (lambda study: study.passport(0).unlink(), "passport-missing"),
    "an invalid passport": (lambda study: study.passport(0).write_text("[]"), "passport-invalid"),
    "other weights": (lambda study: shutil.copy(study.model(1), study.model(0)), "evidence-incomplete"),
    "the passport of another fold": (
        lambda study: shutil.copy(study.passport(1), study.passport(0)),
        "evidence-incomplete",
    ),
    "other arrays": (lambda study: edit_record(study, content="another", arrays={}), "evidence-incomplete"),
    "no hashes of the scans": (lambda study: edit_record(study, inputs={}), "evidence-incomplete"),
    "no arrays": (lambda study: shutil.rmtree(study.numpy), "evidence-incomplete"),
    "other settings": (
        lambda study: write_config(study.config, override(read_config(study.config), {"training.epochs": 7})),
        "evidence-incomplete",
    ),
    "no settings": (lambda study: study.config.unlink(), "evidence-incomplete"),
    "a changed history": (
        lambda study: study.history.write_text(study.history.read_text().replace("accepted", "kept", 1)),
        "history-changed",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_model_whose_chain_is_broken_has_no_evidence(study: Study, tmp_path: Path, fault: str) -> None:
    breaks, code = REFUSED[fault]
    breaks(study)
    pack = tmp_path / "pack.zip"
    with refuses(code, ConfigError):
        write(study, pack)
    assert not pack.exists()


def keep(study: Study, weights: Path) -> None:
    """Keep a model whatever changed since it was trained."""
    kept = Kept(study)
    without_kept(kept, weights, verify(weights, study), partial(case_contents, study))
    stale = kept.stale["training", weights.stem]
    entry = stale.keep(("training", weights.stem), stale.changes, "It does not matter", "2026-01-31")
    write_kept(study.kept, [*kept.entries, entry])


def test_a_kept_change_of_settings_is_part_of_the_evidence(study: Study, tmp_path: Path) -> None:
    REFUSED["other settings"][0](study)
    for fold in (0, 1):
        keep(study, study.model(fold))
    pack = write(study, tmp_path / "pack.zip")
    entries = [entry for entry in read(pack, "kept.json") if entry["step"] == "training"]
    assert [entry["key"] for entry in entries] == ["fold_0", "fold_1"]
    assert "epochs was 1 and is 7" in entries[0]["changes"][0]


@pytest.mark.parametrize("fault", ["other weights", "other arrays"])
def test_what_was_kept_does_not_excuse_other_bytes(study: Study, tmp_path: Path, fault: str) -> None:
    REFUSED[fault][0](study)
    keep(study, study.model(0))
    with refuses("evidence-incomplete", ConfigError):
        write(study, tmp_path / "pack.zip", study.model(0))


def other_prediction(study: Study) -> None:
    path = study.prediction_record("train", "phantom_002")
    write_json(path, {**read_object(path), "mask": json_hash("another")})


def edited_score(study: Study) -> None:
    text = study.results_csv.read_text()
    first = text.splitlines()[1]
    study.results_csv.write_text(text.replace(first, ",".join([*first.split(",")[:-1], "0.5"])))


@pytest.mark.parametrize(
    "change, reason",
    [
        (other_prediction, "phantom_002"),
        (edited_score, "results_summary.json"),
        (lambda study: summary_path(study.results_csv).unlink(), "no scores"),
        (lambda study: shutil.rmtree(study.prediction_record("train", "any").parent), "no prediction"),
    ],
)
def test_scores_that_are_not_those_of_the_models_are_not_in_the_pack(
    study: Study, tmp_path: Path, change: Callable[[Study], object], reason: str
) -> None:
    change(study)
    made = write_pack(study, models_of(study.results), tmp_path / "pack.zip")
    assert any(reason in note for note in made.notes)
    with zipfile.ZipFile(tmp_path / "pack.zip") as archive:
        assert not {"scores.csv", "scores.json"} & set(archive.namelist())
    assert reason in read(tmp_path / "pack.zip", "model_card.md")
    assert verify_pack(tmp_path / "pack.zip").problems == []


def test_a_path_without_models_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pt", tmp_path / "none"):
        with refuses("model-missing", file=path):
            models_of(path)
