from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from expect import refuses

from mist_ops.dataset import (
    Assignment,
    Case,
    find_test_cases,
    find_training_cases,
    linked_away,
    read_description,
    read_paths,
    read_train_paths,
    write_test_paths,
    write_train_paths,
)
from mist_ops.errors import DatasetError
from mist_ops.study import find_dataset, record_dataset
from mist_ops.tables import Locator

DESCRIPTION: dict[str, Any] = {
    "task": "brain",
    "modality": "MR",
    "train-data": "train",
    "mask": ["mask.nii.gz"],
    "images": {"t1": ["t1.nii.gz"], "t1c": ["t1c.nii.gz"]},
    "labels": [0, 2, 1],
    "final_classes": {"whole": [1, 2]},
}
FILES = ("mask.nii.gz", "t1.nii.gz", "t1c.nii.gz")


def _dataset(
    folder: Path, ids: tuple[str, ...] = ("007", "P1.5"), files: tuple[str, ...] = FILES, **changes: object
) -> Path:
    for patient in ids:
        (folder / "train" / patient).mkdir(parents=True)
        for name in files:
            (folder / "train" / patient / name).touch()
    path = folder / "dataset.json"
    path.write_text(json.dumps({**DESCRIPTION, **changes}))
    return path


def test_patients_are_sorted_and_ids_are_text(tmp_path: Path) -> None:
    cases = find_training_cases(read_description(_dataset(tmp_path, ("P1.5", "10", "007"))))
    assert [case.id for case in cases] == ["007", "10", "P1.5"]
    assert list(cases[0].images) == ["t1", "t1c"]
    assert cases[0].mask == (tmp_path / "train" / "007" / "mask.nii.gz").resolve()


def test_folders_are_relative_to_the_json_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert read_description(path.relative_to(tmp_path)).train_data == (tmp_path / "data" / "train").resolve()


def test_labels_are_sorted_and_the_modality_ignores_case(tmp_path: Path) -> None:
    described = read_description(_dataset(tmp_path))
    assert (described.labels, described.modality) == ([0, 1, 2], "mr")


def test_without_final_classes_each_label_is_a_class(tmp_path: Path) -> None:
    assert read_description(_dataset(tmp_path, final_classes=None)).classes == {"label_1": [1], "label_2": [2]}


def test_all_mistakes_of_a_description_are_listed(tmp_path: Path) -> None:
    path = _dataset(tmp_path, labels=[1, 2], images={"mask": ["x"]}, final_classes={"whole": [3], "none": [0]})
    with pytest.raises(DatasetError) as refused:
        read_description(path)
    for part in ("'labels' must contain 0", "'mask' is reserved", "'whole' has labels", "'none' needs"):
        assert part in str(refused.value)


def test_all_missing_keys_and_wrong_types_are_listed(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"task": "brain", "modality": "xray", "labels": [0, 1.5], "mask": "m"}')
    with pytest.raises(DatasetError) as refused:
        read_description(tmp_path / "dataset.json")
    for part in ("'modality'", "'train-data'", "'images'", "'labels.1'", "'mask'"):
        assert part in str(refused.value)


def test_a_missing_dataset_folder_or_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    with refuses("dataset-missing", DatasetError, file=path, names="Give a dataset.json with --data."):  # pinned
        read_description(path)
    with refuses("folder-missing", DatasetError, file=tmp_path / "elsewhere", field="test-data"):
        read_description(_dataset(tmp_path, **{"test-data": "elsewhere"}))
    with refuses("table-missing", DatasetError, file=tmp_path / "none.csv", field="patients"):
        read_description(_dataset(tmp_path, ("a",), patients="none.csv"))


def test_a_dataset_without_test_data_has_no_test_cases(tmp_path: Path) -> None:
    assert find_test_cases(read_description(_dataset(tmp_path))) == []


def test_an_equal_file_name_takes_precedence_over_one_that_contains_the_string(tmp_path: Path) -> None:
    files = (*FILES, "old_t1.nii.gz.txt", "copy_of_t1.nii.gz")
    case = find_training_cases(read_description(_dataset(tmp_path, ("a",), files)))[0]
    assert case.images["t1"].name == "t1.nii.gz"


def test_hidden_files_and_folders_are_not_patients_or_images(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a",), (*FILES, "._t1.nii.gz"))
    (tmp_path / "train" / ".cache").mkdir()
    assert len(find_training_cases(read_description(path))) == 1


def test_all_missing_and_ambiguous_files_are_listed(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a", "b"), ("mask.nii.gz", "x_t1c.nii.gz", "y_t1c.nii.gz"))
    with refuses("file-unmatched", DatasetError, case="a", field="t1", expected=["t1.nii.gz"]) as refused:
        find_training_cases(read_description(path))
    *_, last = refused.value.message.splitlines()
    assert [part in last for part in ("'b'", "'t1c'", "2 files", "x_t1c.nii.gz, y_t1c.nii.gz")] == [True] * 4


def test_a_file_that_matches_two_channels_is_refused(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a",), ("mask.nii.gz", "t1c.nii.gz"), images={"t1": ["t1"], "t1c": ["t1c"]})
    with refuses("file-ambiguous", DatasetError, case="a", names="t1c.nii.gz", found=["t1", "t1c"]):
        find_training_cases(read_description(path))


def test_all_broken_links_are_listed(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a",))
    (tmp_path / "train" / "b").symlink_to(tmp_path / "gone")
    (tmp_path / "train" / "a" / "t1.nii.gz").unlink()
    (tmp_path / "train" / "a" / "t1.nii.gz").symlink_to("t1.nii.gz")
    with refuses("link-broken", DatasetError, file=tmp_path / "train" / "b") as refused:
        find_training_cases(read_description(path))
    for link in ("train/b", "a/t1.nii.gz"):
        assert f"{link} is a broken link" in refused.value.message


def test_links_to_other_folders_are_followed_and_listed(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a", "b"))
    (tmp_path / "train" / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "train" / "a").symlink_to(tmp_path / "elsewhere")
    description = read_description(path)
    assert linked_away(find_training_cases(description), description.train_data) == ["a"]


def test_misspelled_keys_are_refused_and_notes_are_not(tmp_path: Path) -> None:
    assert read_description(_dataset(tmp_path, ("a",), description="of ours", test={}, licence="CC0")).test_data is None
    with pytest.raises(DatasetError, match=r"'test-dat'.*'test-data'"):
        read_description(_dataset(tmp_path, (), **{"test-dat": "test"}))


def test_a_folder_without_patients_is_refused(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ())
    (tmp_path / "train").mkdir()
    words = "holds no patients. It must contain one folder per patient."
    with refuses("folder-empty", DatasetError, file=tmp_path / "train", names=words):  # pinned
        find_training_cases(read_description(path))


def _assignment(folder: Path = Path("/data")) -> Assignment:
    cases = tuple(
        Case(name, {"t1": folder / f"{name}_t1.nii.gz"}, folder / f"{name}, mask.nii.gz")
        for name in ("007", "NA", "1e5")
    )
    return Assignment(cases, {"007": 0, "NA": 1, "1e5": 0})


def test_the_training_table_survives_a_round_trip(tmp_path: Path) -> None:
    write_train_paths(tmp_path / "train_paths.csv", _assignment())
    assert (tmp_path / "train_paths.csv").read_text().splitlines()[0] == "id,fold,mask,t1"
    assert read_train_paths(tmp_path / "train_paths.csv") == _assignment()


def test_tables_with_relative_paths_can_be_moved_with_their_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    table = Path("results", "train_paths.csv")
    write_train_paths(first / table, _assignment(first / "data"), relative_to=first / "results")
    assert "../data/007_t1.nii.gz" in (first / table).read_text()
    second.parent.mkdir()
    first.rename(second)
    assert read_train_paths(second / table) == _assignment(second / "data")


def test_paths_are_relative_to_the_table_or_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for path in (here / "both.nii", here / "only.nii", there / "both.nii"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(here)
    found = [Locator(there / "table.csv")(name) for name in ("both.nii", "only.nii", "neither.nii")]
    assert found == [there / "both.nii", here / "only.nii", there / "neither.nii"]


def test_paths_of_windows_are_read_unless_a_file_has_that_very_name(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "t1.nii").touch()
    (tmp_path / "odd\\name.nii").touch()
    table = tmp_path / "table.csv"
    assert Locator(table)("scans\\t1.nii") == tmp_path / "scans" / "t1.nii"
    assert Locator(table)(".\\scans\\t1.nii") == tmp_path / "scans" / "t1.nii"
    assert Locator(table)("odd\\name.nii") == tmp_path / "odd\\name.nii"


def _analyzed(results: Path, data: str) -> None:
    results.mkdir(parents=True)
    (results / "fingerprint.json").write_text(json.dumps({"data": data}))


def test_a_copied_table_leads_to_the_dataset_on_record(tmp_path: Path) -> None:
    copy, dataset = tmp_path / "far" / "away" / "copy", tmp_path / "study" / "data" / "dataset.json"
    _analyzed(copy, "../data/dataset.json")
    dataset.parent.mkdir(parents=True)
    dataset.touch()
    locate = Locator(copy / "train_paths.csv")
    assert locate("../data/train/1/t1.nii") == copy.parent / "data" / "train" / "1" / "t1.nii"  # without a record
    record_dataset(copy, dataset)
    locate = Locator(copy / "train_paths.csv")
    assert locate("../data/train/1/t1.nii") == dataset.parent / "train" / "1" / "t1.nii"
    assert locate("../more/1/t1.nii") == tmp_path / "study" / "more" / "1" / "t1.nii"
    assert locate("../../1/t1.nii") == tmp_path / "1" / "t1.nii"
    assert locate("predictions/1.nii") == copy / "predictions" / "1.nii"


def test_a_path_through_a_folder_whose_name_is_unknown_stays_relative_to_the_table(tmp_path: Path) -> None:
    _analyzed(tmp_path / "copy", "../../dataset.json")
    (tmp_path / "dataset.json").touch()
    record_dataset(tmp_path / "copy", tmp_path / "dataset.json")
    assert Locator(tmp_path / "copy" / "paths.csv")("../train/t1.nii") == tmp_path / "train" / "t1.nii"


def test_a_dataset_beside_a_copy_takes_precedence_over_the_one_on_record(tmp_path: Path) -> None:
    _analyzed(tmp_path / "new" / "results", "../data/dataset.json")
    for folder in ("old", "new"):
        (tmp_path / folder / "data").mkdir(parents=True)
        (tmp_path / folder / "data" / "dataset.json").touch()
    record_dataset(tmp_path / "new" / "results", tmp_path / "old" / "data" / "dataset.json")
    assert find_dataset(tmp_path / "new" / "results") == tmp_path / "new" / "data" / "dataset.json"


@pytest.mark.parametrize(("data", "cell"), [("../data/dataset.json", "../data/1.nii"), ("{}/data/dataset.json", None)])
def test_a_table_in_results_names_files_as_the_analysis_does(tmp_path: Path, data: str, cell: str | None) -> None:
    results, mask = tmp_path / "far" / "copy", tmp_path / "data" / "1.nii"
    _analyzed(results, data.format(tmp_path))
    mask.parent.mkdir()
    (mask.parent / "dataset.json").touch()
    record_dataset(results, mask.parent / "dataset.json")
    locate = Locator(results / "evaluation_paths.csv")
    assert locate.cell(mask) == (cell or str(mask))
    assert locate(locate.cell(mask)) == mask
    assert locate.cell(results / "predictions" / "1.nii") == "predictions/1.nii"


def test_held_out_cases_keep_their_order_and_are_found_by_id() -> None:
    assert _assignment().held_out(0) == ("007", "1e5")
    assert _assignment()["NA"].id == "NA"


def test_channels_of_a_test_table_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "paths.csv").write_text("t2,note,id,t1\nb.nii,,007,a.nii\n")
    case = read_paths(tmp_path / "paths.csv", ["t1", "t2"])[0]
    assert case == Case("007", {"t1": tmp_path / "a.nii", "t2": tmp_path / "b.nii"})


def test_the_test_table_survives_a_round_trip(tmp_path: Path) -> None:
    cases = [Case("007", {"t1": Path("/data/a.nii"), "t2": Path("/data/b.nii")})]
    write_test_paths(tmp_path / "test_paths.csv", cases)
    assert read_paths(tmp_path / "test_paths.csv", ["t1", "t2"]) == cases


@pytest.mark.parametrize(
    "text, code, found",
    [
        ("id,t2\n1,a\n", "table-column-missing", ["id", "t2"]),
        ("id,t1\n1,a\n1,b\n", "patient-duplicate", ["1"]),
        ("id,t1\n1,\n", "table-cell-empty", ["row 2, column 't1'"]),
        ("id,t1\n../1,a\n", "id-unsafe", "../1"),
        ("", "table-unreadable", None),
    ],
)
def test_an_invalid_table_is_refused(tmp_path: Path, text: str, code: str, found: object) -> None:
    (tmp_path / "paths.csv").write_text(text)
    with refuses(code, DatasetError, file=tmp_path / "paths.csv", found=found):
        read_paths(tmp_path / "paths.csv", ["t1"])


def test_a_fold_that_is_not_an_integer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_paths.csv").write_text("id,fold,mask,t1\n1,first,m,a\n")
    with refuses("table-not-integer", DatasetError, field="fold", found="first"):
        read_train_paths(tmp_path / "train_paths.csv")
