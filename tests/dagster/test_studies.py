"""The register of studies, and the partitions that follow from a study's files."""

from pathlib import Path

import dagster as dg
import pytest
from expect import refuses

from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import dagster_home, instance
from mist_dagster.instance.studies import register, registered_studies
from mist_dagster.launch import _partition_tags
from mist_dagster.partitions import study_partitions
from mist_dagster.provenance import asset_key
from mist_ops.errors import ConfigError
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study


def test_a_new_home_has_telemetry_off(home: Path) -> None:
    assert dagster_home() == home
    with instance() as opened:
        assert not opened.telemetry_enabled


def test_default_name_is_the_task_and_a_hash_of_the_results_folder(home: Path) -> None:
    data = home.parent / "dataset.json"
    data.write_text('{"task": "Liver & spleen-v1.2"}')
    one, other = register(Path("a"), data=data), register(Path("b"), data=data)
    assert one.name.startswith("Liver_spleen-v1.2_")
    assert one.name != other.name
    assert registered_studies() == sorted([one, other], key=lambda study: study.name)


def test_registered_results_keep_their_name_and_arrays(home: Path) -> None:
    first = register(Path("results"), numpy=Path("arrays"), name="brains")
    assert register(Path("results")) == first
    assert register(Path("results"), numpy=Path("others")).numpy == Path("others").resolve()


@pytest.mark.parametrize(
    "name, key", [("mednext-base", "mednext_base"), ("Prostate 3.0 T", "Prostate_3_0_T"), ("7T", "7T"), ("b_1", "b_1")]
)
def test_names_as_people_type_them_have_a_safe_asset_key(home: Path, name: str, key: str) -> None:
    study = register(Path("results"), name=name)
    assert registered_studies() == [study]
    assert (study.name, study.key) == (name, key)
    assert asset_key(study, "evaluation") == dg.AssetKey([key, "evaluation"])
    build_definitions([study]).resolve_job_def(f"{key}__train")


def test_a_study_name_is_unique_and_belongs_to_one_results_folder(home: Path) -> None:
    register(Path("one"), name="brain-mets")
    with refuses("study-name-taken", ConfigError, field="--study"):
        register(Path("other"), name="brain-mets")
    with refuses("study-name-taken", ConfigError, names="brain_mets"):
        register(Path("other"), name="brain.mets")
    with refuses("study-registered", ConfigError, found="livers", expected="brain-mets"):
        register(Path("one"), name="livers")


@pytest.mark.parametrize("name", ["../escape", "-rf", "a/b", "a ", "a.", "x" * 81, "tools"])
def test_invalid_study_names(home: Path, name: str) -> None:
    with refuses("study-name-invalid", ConfigError, found=name):
        register(Path("results"), name=name)


def test_a_copied_record_with_the_asset_key_of_another_study_is_skipped(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = register(Path("results"), name="brain-mets")
    record = dagster_home() / "studies" / "brain-mets.yaml"
    record.with_stem("brain_mets").write_text(record.read_text())
    assert registered_studies() == [study]
    assert "[study-name-taken]" in caplog.text


@pytest.mark.parametrize("text", ["results: [", "- a", "results: 7", "a: &a [*a, *a]", "\0", "[" * 10_000, "é"])
def test_invalid_records_are_reported_and_leave_other_studies_usable(
    home: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = register(Path("results"), name="brains")
    broken = dagster_home() / "studies" / "livers.yaml"
    broken.write_text(text, encoding="latin-1")
    assert registered_studies() == [study]
    assert str(broken) in caplog.text
    with refuses("record-invalid", ConfigError, file=broken):
        register(Path("other"), name="livers")


def test_partitions_before_analysis_are_those_that_the_analysis_will_assign(home: Path) -> None:
    data = write_phantoms(home.parent / "data", patients=6, tests=1, size=(24, 26, 22))
    found = study_partitions(Study("s", numpy=Path("n"), results=Path("none"), data=data))
    assert found.folds.get_partition_keys() == [f"fold_{index}" for index in range(5)]
    assert len(found.patients.get_partition_keys()) == 6
    assert [case for fold in found.held_out.values() for case in fold] == list(found.patients.get_partition_keys())
    assert len(found.test_patients.get_partition_keys()) == 1


def test_a_study_with_missing_files_has_no_partitions(home: Path) -> None:
    found = study_partitions(Study("s", numpy=Path("n"), results=Path("none"), data=Path("gone.json")))
    assert list(found.patients.get_partition_keys()) == []


def test_each_contiguous_range_of_patients_is_one_run() -> None:
    tags = [list(tag.values()) for tag in _partition_tags(["a", "b", "c", "d", "e"], ["e", "b", "a"])]
    assert tags == [["a", "b"], ["e"]]
    assert list(_partition_tags([], None)) == [{}]


def test_names_in_an_older_dagster_yaml_are_updated(home: Path) -> None:
    dagster_home()
    settings = home / "dagster.yaml"
    now = settings.read_text()
    before = now.replace("mist_dagster.instance.event_log", "mist_dagster.event_log")
    before = before.replace("mist_dagster.run_storage", "mist_dagster.instance.run_storage")
    before = before.replace("mist_dagster.instance.compute_logs", "dagster._core.storage.noop_compute_log_manager")
    before = before.replace("ExplainedComputeLogs", "NoOpComputeLogManager")
    before = before.replace("PooledSqlite", "KeptSqlite").replace("WaitingSqlite", "PatientSqlite")
    settings.write_text(before + "# mine\n")
    with instance():
        pass
    assert settings.read_text() == now + "# mine\n"


FIRST_SETTINGS = """\
# Dagster's settings for studies, copied to a new DAGSTER_HOME and yours to edit from then on.
telemetry:
  enabled: false
nux:
  enabled: false # no invitation over the first page
python_logs:
  managed_python_loggers: [mist, mist_ops]
  python_log_level: INFO
concurrency:
  runs:
    max_concurrent_runs: 4
  pools:
    granularity: run
    default_limit: 1 # for the pool gpu, set this to the number of devices: dagster instance concurrency set gpu N
run_monitoring:
  enabled: true
  poll_interval_seconds: 15
  start_timeout_seconds: 180
  cancel_timeout_seconds: 60
run_retries:
  enabled: true
  max_retries: 0 # a run asks for them with the tag dagster/max_retries
"""


def test_an_older_dagster_yaml_gains_new_sections_unless_it_was_edited(home: Path) -> None:
    dagster_home()
    settings = home / "dagster.yaml"
    now = settings.read_text()
    edited = FIRST_SETTINGS.replace("runs: 4", "runs: 2")
    for before, after in ((FIRST_SETTINGS, now), (edited, edited)):
        settings.write_text(before)
        dagster_home()
        assert settings.read_text() == after


def test_the_assets_of_a_study_have_the_owners_in_its_record(home: Path) -> None:
    register(Path("results"), name="owned")
    record = home / "studies" / "owned.yaml"
    record.write_text(record.read_text().replace("owners: []", "owners: [ana@example.org, 'team:neuro lab']"))
    study = register(Path("results"), numpy=Path("elsewhere"))  # an updated record keeps them
    graph = build_definitions([study]).resolve_asset_graph()
    model = graph.get(dg.AssetKey(["owned", "fold_model"]))
    assert set(model.owners) == {"ana@example.org", "team:neuro lab"}
    record.write_text(record.read_text().replace("ana@example.org", "ana"))
    assert registered_studies() == []  # a warning names the file
