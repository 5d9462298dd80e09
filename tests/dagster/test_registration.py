"""A running UI shows every study as soon as it is registered, moved or removed, and its runs go on meanwhile."""

import urllib.request
from pathlib import Path

import pytest

from mist_dagster import cli
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.studies import register, registered_studies
from mist_dagster.instance.watch import Watch
from mist_ops.config import override, read_config, write_config
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study

from .serving import TERMINATE, ask, serving, wait_until

MOST_SECONDS = 60.0
"""Until a change is shown; about 4 s on a quiet machine, mostly to start a process."""


def shown(address: str) -> dict[str, list[str]]:
    """The studies in the graph, with their patients."""
    query = "{ assetNodes { assetKey { path } partitionKeys } }"
    cases = [node for node in ask(address, query)["assetNodes"] if "raw_case" in node["assetKey"]["path"]]
    return {node["assetKey"]["path"][0]: node["partitionKeys"] for node in cases}


def load_page(address: str) -> None:
    request = urllib.request.Request(address, headers={"Accept": "text/html,*/*;q=0.8"})
    with urllib.request.urlopen(request, timeout=60) as page:
        assert page.status == 200


def status_of(address: str, run: str) -> str:
    found = ask(address, f'{{ runOrError(runId: "{run}") {{ ... on Run {{ status }} }} }}')
    return str(found["runOrError"]["status"])


def test_a_watch_reloads_once_after_each_change_of_a_record_or_a_table(home: Path, copied_study: Study) -> None:
    watch, reloads = Watch(), []

    def reload() -> None:
        reloads.append(sorted(study.name for study in registered_studies()))

    def reloaded() -> bool:
        before = len(reloads)
        watch.refresh(reload)
        watch.refresh(reload)
        return len(reloads) - before == 1

    watch.refresh(reload)
    assert reloads == []
    study = register(copied_study.results, numpy=copied_study.numpy, name="copy")
    assert reloaded()
    assert reloads == [["copy"]]
    study.train_paths.write_text(study.train_paths.read_text())
    assert reloaded()
    write_config(study.config, override(read_config(study.config), {"training.epochs": 7}))
    assert not reloaded()  # no definition depends on it
    register(copied_study.results, numpy=copied_study.numpy / "..")
    assert reloaded()
    study.test_paths.unlink()
    assert reloaded()
    (dagster_home() / "studies" / "copy.yaml").unlink()
    assert reloaded()
    assert reloads[-1] == []


@pytest.mark.slow
def test_a_running_ui_shows_studies_as_they_come_and_go_and_keeps_its_runs(
    home: Path, copied_study: Study, tmp_path: Path
) -> None:
    where = ["--results", str(copied_study.results), "--study"]
    log = tmp_path / "ui.log"
    with serving(home, log) as address:
        assert shown(address) == {}
        assert cli.status([*where, "copy", "--numpy", str(copied_study.numpy), "--rebuild"]) == 0
        wait_until(lambda: len(shown(address).get("copy", [])) == 6, MOST_SECONDS)

        write_config(copied_study.config, override(read_config(copied_study.config), {"training.epochs": 100_000}))
        assert cli.train([*where, "copy", "--overwrite", "--submit", "--folds", "0"]) == 0
        runs = ask(address, "{ runsOrError { ... on Runs { results { runId jobName } } } }")["runsOrError"]["results"]
        run = next(found["runId"] for found in runs if found["jobName"] == "copy__train")
        wait_until(lambda: copied_study.attempt(0).exists(), 120)

        data = write_phantoms(tmp_path / "new", patients=4, size=(24, 26, 22))
        other = ["--results", str(tmp_path / "other"), "--study", "other"]
        assert cli.analyze(["--data", str(data), *other, "--nfolds", "2"]) == 0
        load_page(address)
        wait_until(lambda: len(shown(address).get("other", [])) == 4, MOST_SECONDS)
        assert status_of(address, run) == "STARTED"

        (tmp_path / "other").rename(tmp_path / "moved")
        assert cli.status(["--results", str(tmp_path / "moved"), "--numpy", str(tmp_path / "numpy_of_moved")]) == 0
        load_page(address)
        wait_until(lambda: len(shown(address)) == 3, MOST_SECONDS)
        for name in set(shown(address)) - {"copy"}:
            (home / "studies" / f"{name}.yaml").unlink()
        load_page(address)
        wait_until(lambda: set(shown(address)) == {"copy"}, MOST_SECONDS)

        before = copied_study.attempt(0).stat().st_mtime_ns
        wait_until(lambda: copied_study.attempt(0).stat().st_mtime_ns > before, 60)  # it still trains
        assert ask(address, TERMINATE % run)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        wait_until(lambda: status_of(address, run) == "CANCELED", 60)
    assert "Traceback" not in log.read_text()
