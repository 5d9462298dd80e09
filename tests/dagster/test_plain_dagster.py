"""Dagster's own commands, as its users type them, beside those of this package."""

import getpass
import os
import signal
import sqlite3
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster.instance.home import CODE_LOCATION, instance
from mist_dagster.instance.studies import register
from mist_ops.study import Study

from .serving import answers, ask, free_port, wait_until

CLONE = Path(__file__).parents[2]


@pytest.fixture
def folder(copied_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A project folder with a study, and the one line that docs/how-to/dagster.md asks for."""
    monkeypatch.setenv("DAGSTER_MODULE_NAME", CODE_LOCATION)
    return register(copied_study.results, numpy=copied_study.numpy, data=copied_study.data, name="plain")


@pytest.mark.filterwarnings("ignore:Function .* is superseded")
def test_plain_commands_find_the_study_and_tag_its_runs(
    folder: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = entry_points(group="console_scripts", name="dagster")

    def dagster(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dagster", *arguments])
        with pytest.raises(SystemExit) as ended:
            script.load()()
        assert not ended.value.code
        return capsys.readouterr().out

    assert "plain/fold_model\n" in dagster("asset", "list")
    with instance() as records:
        patient = sorted(path.stem for path in folder.image("x").parent.glob("*.npy"))[0]
    dagster("asset", "materialize", "--select", "plain/preprocessed_case", "--partition", patient)
    with instance() as records:
        (run,) = records.get_runs()
        events = records.get_latest_materialization_event(dg.AssetKey(["plain", "preprocessed_case"]))
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert events is not None
    tags = {"mist/study": "plain", "mist/stage": "preprocess", "user": getpass.getuser(), "dagster/priority": "1"}
    assert tags.items() <= run.tags.items()


def _run(home: Path, **selected: object) -> dg.DagsterRun:
    with instance() as records:
        stored = records.run_storage.add_run(dg.DagsterRun(job_name="__ASSET_JOB", **selected))  # type: ignore[arg-type]
        found = records.get_run_by_id(stored.run_id)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "selected, expected",
    [
        (
            [["s", "training_set"], ["s", "fold_model"]],
            {"mist/study": "s", "mist/stage": "train", "dagster/priority": "0"},
        ),
        ([["s", "raw_case"], ["s", "preprocessed_case"]], {"mist/study": "s", "mist/stage": "observe+preprocess"}),
        ([["a", "evaluation"], ["b", "evaluation"]], {"mist/stage": "evaluate"}),
        ([["tools", "ranking"]], {"mist/stage": "ranking"}),
    ],
)
def test_a_run_of_selected_assets_is_tagged_with_what_it_makes(
    home: Path, selected: list[list[str]], expected: dict[str, str]
) -> None:
    tags = _run(home, asset_selection=frozenset(map(dg.AssetKey, selected))).tags
    assert expected.items() <= tags.items()
    assert tags["user"] == getpass.getuser()
    assert ("mist/study" in tags) == ("mist/study" in expected)


def test_tags_of_a_run_are_not_replaced(home: Path) -> None:
    key = dg.AssetCheckKey(dg.AssetKey(["s", "fold_model"]), "in_sync")
    tags = _run(home, asset_selection=frozenset(), asset_check_selection=frozenset([key]), tags={"user": "x"}).tags
    assert (tags["user"], tags["mist/stage"], tags["mist/study"]) == ("x", "check", "s")


@pytest.mark.slow
def test_dagster_dev_in_a_clone_has_the_same_home_and_warns_of_other_sites(
    folder: Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("pyproject.toml", "dagster.yaml"):
        (clone / name).symlink_to((CLONE / name).resolve())
    (tmp_path / ".mist").mkdir()
    home.rename(tmp_path / ".mist" / "dagster_home")
    own = {"DAGSTER_HOME", "DAGSTER_MODULE_NAME"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    port, log = free_port(), tmp_path / "dev.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "dagster", "dev", "--port", str(port)]
        server = subprocess.Popen(
            command,
            cwd=clone,
            env={**environment, "HOME": str(tmp_path)},
            stdout=stream,
            stderr=stream,
        )
        try:
            locations = "{ workspaceOrError { ... on Workspace { locationEntries { name } } } }"
            query = "{ assetNodes { assetKey { path } } }"
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(address) or server.poll() is not None, 180)
            assert server.poll() is None, log.read_text()
            found = ask(address, query)
            entries = ask(address, locations)["workspaceOrError"]["locationEntries"]
            assert [entry["name"] for entry in entries] == [CODE_LOCATION]
            assert {"assetKey": {"path": ["plain", "fold_model"]}} in found["assetNodes"]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    assert "cross-site" in log.read_text()
    schedules = tmp_path / ".mist" / "dagster_home" / "schedules" / "schedules.db"
    with sqlite3.connect(schedules) as database:
        assert database.execute("select count(*) from instigators").fetchone() is not None


@pytest.mark.slow
def test_dg_lists_checks_and_launches_in_a_clone_and_in_a_project_folder(folder: Study, tmp_path: Path) -> None:
    pytest.importorskip("dagster_dg_cli")
    page = (CLONE / "docs" / "how-to" / "dagster.md").read_text()
    settings = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "dg.toml").write_text(settings)
    (tmp_path / "defs").mkdir()
    patient = sorted(path.stem for path in folder.image("x").parent.glob("*.npy"))[0]
    launch = ["launch", "--assets", "plain/preprocessed_case", "--partition", patient]
    for place in (CLONE, tmp_path):
        for arguments in (["list", "defs", "--json"], ["check", "defs"], launch):
            command = [sys.executable, "-m", "dagster_dg_cli.cli", *arguments]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert arguments[0] != "list" or "plain/fold_model" in done.stdout
    with instance() as records:
        assert [run.tags["mist/stage"] for run in records.get_runs()] == ["preprocess", "preprocess"]
