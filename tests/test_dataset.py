from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
from mist_ops.tables import located

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
    folder: Path, patients: tuple[str, ...] = ("007", "P1.5"), files: tuple[str, ...] = FILES, **changes: object
) -> Path:
    for patient in patients:
        (folder / "train" / patient).mkdir(parents=True)
        for name in files:
            (folder / "train" / patient / name).touch()
    path = folder / "dataset.json"
    path.write_text(json.dumps({**DESCRIPTION, **changes}))
    return path


def test_patients_are_sorted_and_their_ids_stay_text(tmp_path: Path) -> None:
    cases = find_training_cases(read_description(_dataset(tmp_path, ("P1.5", "10", "007"))))
    assert [case.id for case in cases] == ["007", "10", "P1.5"]
    assert list(cases[0].images) == ["t1", "t1c"]
    assert cases[0].mask == (tmp_path / "train" / "007" / "mask.nii.gz").resolve()


def test_folders_are_relative_to_the_json_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert read_description(path.relative_to(tmp_path)).train_data == (tmp_path / "data" / "train").resolve()


def test_labels_are_sorted_and_the_modality_may_be_in_capitals(tmp_path: Path) -> None:
    described = read_description(_dataset(tmp_path))
    assert (described.labels, described.modality) == ([0, 1, 2], "mr")


def test_without_final_classes_every_label_is_one(tmp_path: Path) -> None:
    assert read_description(_dataset(tmp_path, final_classes=None)).classes == {"label_1": [1], "label_2": [2]}


def test_every_mistake_of_a_description_is_named_at_once(tmp_path: Path) -> None:
    path = _dataset(tmp_path, labels=[1, 2], images={"mask": ["x"]}, final_classes={"whole": [3], "none": [0]})
    with pytest.raises(DatasetError) as refused:
        read_description(path)
    for part in ("must hold 0", "'mask' is taken", "'whole' names labels [3]", "'none' needs at least one label"):
        assert part in str(refused.value)


def test_missing_keys_and_wrong_types_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"task": "brain", "modality": "xray", "labels": [0, 1.5], "mask": "m"}')
    with pytest.raises(DatasetError) as refused:
        read_description(tmp_path / "dataset.json")
    for part in ("'modality'", "'train-data'", "'images'", "'labels.1'", "'mask'"):
        assert part in str(refused.value)


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--data"):
        read_description(tmp_path / "dataset.json")
    with pytest.raises(DatasetError, match="'test-data': there is no folder"):
        read_description(_dataset(tmp_path, **{"test-data": "elsewhere"}))


def test_a_dataset_without_test_data_has_no_test_cases(tmp_path: Path) -> None:
    assert find_test_cases(read_description(_dataset(tmp_path))) == []


def test_a_name_that_equals_the_string_wins_over_names_that_hold_it(tmp_path: Path) -> None:
    files = (*FILES, "old_t1.nii.gz.txt", "copy_of_t1.nii.gz")
    case = find_training_cases(read_description(_dataset(tmp_path, ("a",), files)))[0]
    assert case.images["t1"].name == "t1.nii.gz"


def test_hidden_files_and_folders_are_not_patients_or_images(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a",), (*FILES, "._t1.nii.gz"))
    (tmp_path / "train" / ".cache").mkdir()
    assert len(find_training_cases(read_description(path))) == 1


def test_missing_and_ambiguous_files_of_all_patients_are_named_at_once(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a", "b"), ("mask.nii.gz", "x_t1c.nii.gz", "y_t1c.nii.gz"))
    with pytest.raises(DatasetError) as refused:
        find_training_cases(read_description(path))
    for patient in "ab":
        assert f"patient '{patient}', t1 ['t1.nii.gz']: no file matches" in str(refused.value)
        assert f"patient '{patient}', t1c ['t1c.nii.gz']: 2 files match (x_t1c.nii.gz, y_t1c.nii.gz)" in str(
            refused.value
        )


def test_a_file_that_is_two_channels_is_refused(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a",), ("mask.nii.gz", "t1c.nii.gz"), images={"t1": ["t1"], "t1c": ["t1c"]})
    with pytest.raises(DatasetError, match=r"t1c\.nii\.gz matches t1 and t1c"):
        find_training_cases(read_description(path))


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a",))
    (tmp_path / "train" / "b").symlink_to(tmp_path / "gone")
    (tmp_path / "train" / "a" / "t1.nii.gz").unlink()
    (tmp_path / "train" / "a" / "t1.nii.gz").symlink_to("t1.nii.gz")
    with pytest.raises(DatasetError) as refused:
        find_training_cases(read_description(path))
    for link in ("train/b", "a/t1.nii.gz"):
        assert f"{link} is a link that leads nowhere" in str(refused.value)


def test_links_out_of_the_folder_are_followed_and_known(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ("a", "b"))
    (tmp_path / "train" / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "train" / "a").symlink_to(tmp_path / "elsewhere")
    description = read_description(path)
    assert linked_away(find_training_cases(description), description.train_data) == ["a"]


def test_a_key_that_is_nearly_ours_is_refused_and_notes_are_not(tmp_path: Path) -> None:
    assert read_description(_dataset(tmp_path, ("a",), description="of ours", test={}, licence="CC0")).test_data is None
    with pytest.raises(DatasetError, match="'test-dat' is not known, but 'test-data' is"):
        read_description(_dataset(tmp_path, (), **{"test-dat": "test"}))


def test_an_empty_folder_holds_no_patients(tmp_path: Path) -> None:
    path = _dataset(tmp_path, ())
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match="no patients"):
        find_training_cases(read_description(path))


def _assignment(folder: Path = Path("/data")) -> Assignment:
    cases = tuple(
        Case(name, {"t1": folder / f"{name}_t1.nii.gz"}, folder / f"{name}, mask.nii.gz")
        for name in ("007", "NA", "1e5")
    )
    return Assignment(cases, {"007": 0, "NA": 1, "1e5": 0})


def test_the_training_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_train_paths(tmp_path / "train_paths.csv", _assignment())
    assert (tmp_path / "train_paths.csv").read_text().splitlines()[0] == "id,fold,mask,t1"
    assert read_train_paths(tmp_path / "train_paths.csv") == _assignment()


def test_tables_with_relative_paths_may_be_moved_with_their_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    table = Path("results", "train_paths.csv")
    write_train_paths(first / table, _assignment(first / "data"), relative_to=first / "results")
    assert "../data/007_t1.nii.gz" in (first / table).read_text()
    second.parent.mkdir()
    first.rename(second)
    assert read_train_paths(second / table) == _assignment(second / "data")


def test_relative_paths_are_looked_for_beside_the_table_and_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for path in (here / "both.nii", here / "only.nii", there / "both.nii"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(here)
    found = [located(name, there / "table.csv") for name in ("both.nii", "only.nii", "neither.nii")]
    assert found == [there / "both.nii", here / "only.nii", there / "neither.nii"]


def test_cases_of_a_fold_keep_their_order_and_are_found_by_id() -> None:
    assert _assignment().held_out(0) == ("007", "1e5")
    assert _assignment()["NA"].id == "NA"


def test_channels_of_a_test_table_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "paths.csv").write_text("t2,note,id,t1\nb.nii,,007,a.nii\n")
    case = read_paths(tmp_path / "paths.csv", ["t1", "t2"])[0]
    assert case == Case("007", {"t1": tmp_path / "a.nii", "t2": tmp_path / "b.nii"})


def test_a_test_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    cases = [Case("007", {"t1": Path("/data/a.nii"), "t2": Path("/data/b.nii")})]
    write_test_paths(tmp_path / "test_paths.csv", cases)
    assert read_paths(tmp_path / "test_paths.csv", ["t1", "t2"]) == cases


@pytest.mark.parametrize(
    "text, words",
    [
        ("id,t2\n1,a\n", r"lacks the columns \['t1'\]"),
        ("id,t1\n1,a\n1,b\n", "'1' is given twice"),
        ("id,t1\n1,\n", "row 2, column 't1' is empty"),
        ("id,t1\n../1,a\n", "cannot name a file"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "paths.csv").write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_paths(tmp_path / "paths.csv", ["t1"])


def test_a_fold_that_is_no_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_paths.csv").write_text("id,fold,mask,t1\n1,first,m,a\n")
    with pytest.raises(DatasetError, match="'fold' must hold whole numbers"):
        read_train_paths(tmp_path / "train_paths.csv")
