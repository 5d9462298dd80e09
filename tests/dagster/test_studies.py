"""The register of studies, and the partitions that follow from a study's files."""

from pathlib import Path

import pytest

from mist_dagster.instance.home import dagster_home, instance
from mist_dagster.instance.studies import register, registered_studies
from mist_dagster.launch import _partition_tags
from mist_dagster.partitions import study_partitions
from mist_ops.errors import ConfigError
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study


def test_a_home_is_made_with_telemetry_off(home: Path) -> None:
    assert dagster_home() == home
    with instance() as opened:
        assert not opened.telemetry_enabled


def test_a_study_is_named_after_its_task_and_its_folder(home: Path) -> None:
    data = home.parent / "dataset.json"
    data.write_text('{"task": "Liver & spleen"}')
    one, other = register(Path("a"), data=data), register(Path("b"), data=data)
    assert one.name.startswith("Liver_spleen_")
    assert one.name != other.name
    assert registered_studies() == sorted([one, other], key=lambda study: study.name)


def test_a_results_folder_keeps_its_study_and_remembers_its_arrays(home: Path) -> None:
    first = register(Path("results"), numpy=Path("arrays"), name="brains")
    assert register(Path("results")) == first
    assert register(Path("results"), numpy=Path("others")).numpy == Path("others").resolve()


def test_one_name_is_not_given_to_two_studies(home: Path) -> None:
    register(Path("one"), name="brains")
    with pytest.raises(ConfigError, match="already that of"):
        register(Path("other"), name="brains")
    with pytest.raises(ConfigError, match="is already the study 'brains', not 'livers'"):
        register(Path("one"), name="livers")
    with pytest.raises(ConfigError, match="is not allowed"):
        register(Path("third"), name="../escape")


@pytest.mark.parametrize("text", ["results: [", "- a", "results: 7", "a: &a [*a, *a]", "\0", "[" * 10_000, "é"])
def test_a_record_that_cannot_be_read_is_told_of_and_takes_no_other_study_with_it(
    home: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = register(Path("results"), name="brains")
    broken = dagster_home() / "studies" / "livers.yaml"
    broken.write_text(text, encoding="latin-1")
    assert registered_studies() == [study]
    assert f"{broken} is no record of a study" in caplog.text
    with pytest.raises(ConfigError, match="is no record of a study"):
        register(Path("other"), name="livers")


def test_patients_before_analysis_are_those_of_the_dataset_in_the_folds_to_come(home: Path) -> None:
    data = write_phantoms(home.parent / "data", patients=6, tests=1, size=(24, 26, 22))
    found = study_partitions(Study("s", numpy=Path("n"), results=Path("none"), data=data))
    assert found.folds.get_partition_keys() == [f"fold_{index}" for index in range(5)]
    assert len(found.patients.get_partition_keys()) == 6
    assert [case for fold in found.held_out.values() for case in fold] == list(found.patients.get_partition_keys())
    assert len(found.test_patients.get_partition_keys()) == 1


def test_a_study_whose_files_are_gone_has_no_patients_and_breaks_nothing(home: Path) -> None:
    found = study_partitions(Study("s", numpy=Path("n"), results=Path("none"), data=Path("gone.json")))
    assert list(found.patients.get_partition_keys()) == []


def test_patients_are_done_in_as_few_runs_as_there_are_unbroken_ranges() -> None:
    tags = [list(tag.values()) for tag in _partition_tags(["a", "b", "c", "d", "e"], ["e", "b", "a"])]
    assert tags == [["a", "b"], ["e"]]
    assert list(_partition_tags([], None)) == [{}]


def test_a_home_of_an_earlier_version_finds_the_modules_that_moved(home: Path) -> None:
    dagster_home()
    settings = home / "dagster.yaml"
    now = settings.read_text()
    settings.write_text(now.replace("mist_dagster.instance.", "mist_dagster.") + "# mine\n")
    with instance():
        pass
    assert settings.read_text() == now + "# mine\n"
