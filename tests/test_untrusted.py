"""Files with arbitrary content: they are read, or refused with an error that a user can fix."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from expect import refuses
from hypothesis import given
from hypothesis import strategies as st
from records.passports import passport
from training.small_study import small_config

from mist_ops.analysis.analyze import analyze, find_leaks
from mist_ops.analysis.changes import pending_update, read_analyzed
from mist_ops.boxes import read_boxes
from mist_ops.config import EvaluationClass, StudyConfig, check_names, edits, override, read_config, write_config
from mist_ops.conversion.csv import convert_csv
from mist_ops.dataset import (
    Assignment,
    Case,
    DatasetDescription,
    find_training_cases,
    read_description,
    read_paths,
    read_patient_table,
    read_train_paths,
    write_train_paths,
)
from mist_ops.errors import DatasetError, MistError
from mist_ops.evaluation.accepted import regressions
from mist_ops.evaluation.score import read_classes
from mist_ops.evaluation.table import read_masks, read_pairs
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.models.weights import write_tensors
from mist_ops.phantoms import write_phantoms
from mist_ops.postprocessing.strategy import Step, read_strategy, write_strategy
from mist_ops.preprocessing.case import write_case
from mist_ops.ranking.tables import read_scores
from mist_ops.records.arrays import case_content, input_hashes, stale_arrays
from mist_ops.records.arrays import read_record as read_arrays_record
from mist_ops.records.comparison import differences, verify
from mist_ops.records.passport import Passport, read_passport, write_passport
from mist_ops.records.prediction import Origin, read_prediction_record, recording
from mist_ops.records.prediction import why_stale as prediction_outdated
from mist_ops.study import Study, check_id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
DEEP = b"[" * 100_000
"""Nested more deeply than Python's stack."""


def places(whole: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    for key, value in list(whole.items() if isinstance(whole, dict) else enumerate(whole)):
        yield whole, key
        if isinstance(value, dict | list):
            yield from places(value)


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A JSON value with up to three places removed, replaced or added."""
    whole = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(whole))
        if not found:
            break
        parent, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(("remove", "replace", "add"))):
            case "remove":
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = draw(JSON)
            case _:
                parent[key] = draw(JSON)
    return whole


def corrupted(data: st.DataObject, text: bytes) -> bytes:
    """Replacement for a JSON file: values mutated, text truncated, any JSON, or any bytes."""
    ways = (
        mutated(json.loads(text)).map(lambda value: json.dumps(value).encode()),
        st.integers(0, len(text)).map(lambda end: text[:end]),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=64),
        st.just(DEEP),
    )
    return data.draw(st.one_of(*ways))


def survives(read: Callable[[], object]) -> None:
    """Expect a result or an error that a user can fix."""
    with contextlib.suppress(MistError):
        read()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with a preprocessed patient, a passport and a prediction record."""
    folder = tmp_path_factory.mktemp("study")
    data = write_phantoms(folder / "data", patients=2, size=(12, 12, 12))
    made = Study("phantoms", numpy=folder / "numpy", results=folder / "results", data=data)
    for _ in analyze(made, overrides={"training.nfolds": 2, "training.folds": [0, 1]}):
        pass
    case, config = patient(made), read_config(made.config)
    content = write_case(made, case, config, read_boxes(made)[case.id])
    write_tensors(made.model(0), {})
    write_passport(made.passport(0), passport_of(config, case.id, content))
    with recording(made.results / "record.json", made.cv_prediction(case.id), ORIGIN):
        write_labels(made.cv_prediction(case.id), *read_labels(case.mask))
    write_strategy(made.strategy, STRATEGY)
    return made


STRATEGY = (Step("fill_holes_with_label", (1,), per_label=True, params={"fill_holes_label": 2}),)
ORIGIN = Origin({0: "w"}, small_config())


def patient(study: Study) -> Case:
    return read_train_paths(study.train_paths)["phantom_001"]


def passport_of(config: StudyConfig, case_id: str, content: str) -> Passport:
    return passport(config=config.model_dump(mode="json"), content={"training": {case_id: content}})


def read_passports(study: Study) -> None:
    weights = study.model(0)
    verify(weights, study)
    differences(read_passport(weights), passport_of(read_config(study.config), "b", "2"))


def read_record(study: Study) -> None:
    record, case = study.results / "record.json", patient(study)
    read_prediction_record(record)
    prediction_outdated(record, study.cv_prediction(case.id), ORIGIN)


def read_geometry_record(study: Study) -> None:
    case = patient(study)
    stale_arrays(study, small_config(), [case])
    input_hashes(study, case)
    case_content(study, case.id)
    read_arrays_record(study, case.id)


READERS: dict[str, Callable[[Study], object]] = {
    "data/dataset.json": lambda study: find_training_cases(read_description(study.data)),
    "results/config.json": lambda study: (check_names(read_config(study.config)), read_classes(study.config)),
    "results/fingerprint.json": lambda study: (find_leaks(study), pending_update(study, read_analyzed(study))),
    "results/models/fold_0.json": read_passports,
    "results/record.json": read_record,
    "results/postprocessing/strategy.json": lambda study: read_strategy(study.strategy),
    "numpy/geometry/phantom_001.json": read_geometry_record,
}


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_a_corrupted_json_file_is_read_or_refused(study: Study, name: str, data: st.DataObject) -> None:
    path = study.results.parent / name
    whole = path.read_bytes()
    try:
        path.write_bytes(corrupted(data, whole))
        survives(lambda: READERS[name](study))
    finally:
        path.write_bytes(whole)


COLUMNS = ("id", "fold", "mask", "prediction", "group", "stratum", "t1", "lesion_dice", "x_start")
CELLS = st.text(max_size=6) | st.sampled_from(["a", "Mean", "0", "-3", "1e999", "nan", "../x", '"', "\0", "\ud800"])


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Replacement for a table: known and unknown columns, any cells, rows too short or too long, or any bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=64))
    names = draw(st.lists(st.sampled_from(COLUMNS) | CELLS, max_size=len(COLUMNS)))
    rows = draw(st.lists(st.lists(CELLS, max_size=len(COLUMNS)), max_size=4))
    ids = [[f"p{number}", *row] for number, row in enumerate(rows)] if draw(st.booleans()) else rows
    lines = [["id", *names], *ids] if draw(st.booleans()) else [list(COLUMNS), *ids]
    return "\n".join(",".join(line) for line in lines).encode(errors="surrogatepass")


TABLES: dict[str, Callable[[Path], object]] = {
    "train_paths.csv": read_train_paths,
    "test_paths.csv": lambda path: read_paths(path, ["t1"]),
    "patients.csv": lambda path: read_patient_table(DESCRIPTION.model_copy(update={"patients": path})),
    "fg_bboxes.csv": lambda path: read_boxes(Study("s", path.parent, path.parent)),
    "evaluation_paths.csv": read_pairs,
    "masks.csv": read_masks,
    "scores.csv": lambda path: read_scores([path, path.with_name("others.csv")], missing="worst"),
    "results.csv": lambda path: regressions(path, path, CLASSES),
    "convert.csv": lambda path: list(convert_csv(path, None, path.parent / "converted", overwrite=True)),
}
DESCRIPTION = DatasetDescription.model_validate(
    {"task": "t", "modality": "mr", "train-data": ".", "mask": ["m"], "images": {"t1": ["t1"]}, "labels": [0, 1]}
)
CLASSES = {"lesion": EvaluationClass(labels=[1], metrics={"dice": {}})}


@pytest.mark.parametrize("name", TABLES)
@given(content=tables())
def test_a_corrupted_table_is_read_or_refused(tables_of: Path, name: str, content: bytes) -> None:
    (tables_of / name).write_bytes(content)
    survives(lambda: TABLES[name](tables_of / name))


@pytest.fixture(scope="module")
def tables_of(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "others.csv").write_text("id,lesion_dice\na,0.5\n")
    return folder


def test_a_row_with_an_extra_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_paths.csv").write_text("id,fold,mask,t1\na,0,m.nii.gz,t1.nii.gz,surplus\n")
    with refuses("table-extra-column", DatasetError, file=tmp_path / "train_paths.csv"):
        read_train_paths(tmp_path / "train_paths.csv")


def test_missing_cells_of_a_row_are_empty(tmp_path: Path) -> None:
    (tmp_path / "train_paths.csv").write_text("id,fold,mask,group\na,0,m.nii.gz\n")
    assert read_train_paths(tmp_path / "train_paths.csv").group_of == {}


def allowed(name: str) -> bool:
    try:
        return bool(check_id(name))
    except DatasetError:
        return False


IDS = st.from_regex(r"[^\W_][\w.+@-]{0,9}", fullmatch=True).filter(allowed)
FILES = st.text("abc/ ,'\"ü\t", min_size=1, max_size=9).map(lambda name: Path("/data", f"{name}.nii.gz"))


@given(rows=st.dictionaries(IDS, st.tuples(FILES, FILES, FILES, st.integers(0, 9), st.none() | IDS), min_size=1))
def test_folds_survive_their_table(tables_of: Path, rows: dict[str, tuple[Path, Path, Path, int, str]]) -> None:
    cases = tuple(Case(name, {"t1": t1, "t2": t2}, mask) for name, (t1, t2, mask, _, _) in rows.items())
    folds = {name: fold for name, (*_, fold, _) in rows.items()}
    assignment = Assignment(cases, folds, {name: group for name, (*_, group) in rows.items() if group})
    write_train_paths(tables_of / "written.csv", assignment)
    assert read_train_paths(tables_of / "written.csv") == assignment


@given(data=st.data())
def test_edits_of_settings_are_accepted_by_override(study: Study, data: st.DataObject) -> None:
    before = read_config(study.config)
    raw = data.draw(mutated(before.model_dump(mode="json")))
    try:
        after = StudyConfig.model_validate(raw)
        changes = edits(before, after)
        assert override(before, changes) == after
    except (ValueError, MistError):
        return
    write_config(study.results / "edited.json", after)
    assert read_config(study.results / "edited.json") == after
