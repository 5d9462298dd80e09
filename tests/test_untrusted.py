"""Whatever stands in a file that a study reads: a result, or an error that a user can put right."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_ops.analysis.analyze import analyze, find_leaks, unseen_patients
from mist_ops.config import StudyConfig, check_names, read_config
from mist_ops.dataset import Case, find_training_cases, read_boxes, read_description, read_train_paths
from mist_ops.errors import MistError
from mist_ops.evaluation.score import read_classes
from mist_ops.files import write_json
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.inference.records import Origin, read_mask_hash, read_models, recording
from mist_ops.inference.records import why_outdated as prediction_outdated
from mist_ops.models.weights import write_tensors
from mist_ops.phantoms import write_phantoms
from mist_ops.postprocessing.strategy import Step, read_strategy, write_strategy
from mist_ops.preprocessing.case import input_hashes, read_case_geometry, read_content_hash, write_case
from mist_ops.preprocessing.case import why_outdated as case_outdated
from mist_ops.study import Study
from mist_ops.training.passports import case_content, differences, read_passport, verify
from mist_ops.types import Json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
DEEP = b"[" * 100_000
"""Deeper than Python's stack."""


def places(whole: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    for key, value in list(whole.items() if isinstance(whole, dict) else enumerate(whole)):
        yield whole, key
        if isinstance(value, dict | list):
            yield from places(value)


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A JSON value with up to three places removed, replaced, or put beside another key."""
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


def spoiled(data: st.DataObject, text: bytes) -> bytes:
    """Bytes in place of a JSON file: its values mutated, the text cut off, any JSON, or anything."""
    ways = (
        mutated(json.loads(text)).map(lambda value: json.dumps(value).encode()),
        st.integers(0, len(text)).map(lambda end: text[:end]),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=64),
        st.just(DEEP),
    )
    return data.draw(st.one_of(*ways))


def survives(read: Callable[[], object]) -> None:
    """A result will do, and so will an error that a user can put right."""
    with contextlib.suppress(MistError):
        read()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with a preprocessed patient, a passport and the record of a prediction."""
    folder = tmp_path_factory.mktemp("study")
    data = write_phantoms(folder / "data", patients=2, size=(12, 12, 12))
    made = Study("phantoms", numpy=folder / "numpy", results=folder / "results", data=data)
    for _ in analyze(made, overrides={"training.nfolds": 2, "training.folds": [0, 1]}):
        pass
    case, config = patient(made), read_config(made.config)
    content = write_case(made, case, config, read_boxes(made)[case.id])
    write_tensors(made.model(0), {})
    write_json(made.passport(0), passport(config, case.id, content))
    with recording(made.results / "record.json", made.cv_prediction(case.id), ORIGIN):
        write_labels(made.cv_prediction(case.id), *read_labels(case.mask))
    write_strategy(made.strategy, STRATEGY)
    return made


STRATEGY = (Step("fill_holes_with_label", (1,), per_label=True, params={"fill_holes_label": 2}),)
ORIGIN = Origin({0: "w"}, "settings")


def patient(study: Study) -> Case:
    return read_train_paths(study.train_paths)["phantom_001"]


def passport(config: StudyConfig, case_id: str, content: str) -> Json:
    return {
        "fold": 0,
        "content": {"training": {case_id: content}, "validation": {}},
        "config": config.model_dump(mode="json"),
        "weights": "w",
        "best_epoch": 0,
        "history": [{"index": 0, "validation_loss": 0.5}],
        "seconds": 1800.0,
    }


def read_passports(study: Study) -> None:
    weights = study.model(0)
    verify(weights, study)
    differences(read_passport(weights), passport(read_config(study.config), "b", "2"))


def read_record(study: Study) -> None:
    record, case = study.results / "record.json", patient(study)
    read_models(record)
    read_mask_hash(record)
    prediction_outdated(record, study.cv_prediction(case.id), ORIGIN)


def read_geometry_record(study: Study) -> None:
    case = patient(study)
    case_outdated(study, case, "settings")
    input_hashes(study, case)
    case_content(study, case.id)
    for read in (read_content_hash, read_case_geometry):
        survives(lambda: read(study, case.id))  # noqa: B023


READERS: dict[str, Callable[[Study], object]] = {
    "data/dataset.json": lambda study: find_training_cases(read_description(study.data)),
    "results/config.json": lambda study: (check_names(read_config(study.config)), read_classes(study.config)),
    "results/fingerprint.json": lambda study: (find_leaks(study), unseen_patients(study)),
    "results/models/fold_0.json": read_passports,
    "results/record.json": read_record,
    "results/postprocessing/strategy.json": lambda study: read_strategy(study.strategy),
    "numpy/geometry/phantom_001.json": read_geometry_record,
}


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_a_spoiled_json_is_read_or_refused(study: Study, name: str, data: st.DataObject) -> None:
    path = study.results.parent / name
    whole = path.read_bytes()
    try:
        path.write_bytes(spoiled(data, whole))
        survives(lambda: READERS[name](study))
    finally:
        path.write_bytes(whole)
