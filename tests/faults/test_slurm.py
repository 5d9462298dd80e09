"""``mist_slurm`` on analyzed studies with one fault each; nothing is submitted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mist_dagster.slurm.settings import NAME

from .harness import Arguments, Fault, Sandbox, cut_short, fill, meets, remove

DRY = ("--dry-run",)


def settings(box: Sandbox) -> Path:
    return box.study.results / NAME


def with_settings(text: str) -> Callable[[Sandbox], Arguments]:
    """Print scripts by other settings."""

    def change(box: Sandbox) -> Arguments:
        fill(settings(box), text)
        return DRY

    return change


refused = partial(Fault, touches=False, again=False)

INVALID = ("[slurm-settings-invalid]", NAME)

FAULTS = [
    refused(
        "slurm/no-study",
        "a folder of results without a study",
        lambda box: remove(box.study.config),
        ("[config-missing]", "mist_analyze"),
    ),
    refused(
        "slurm/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    refused(
        "slurm/settings-exist",
        "settings that exist already",
        lambda box: fill(settings(box), "executor: slurm\n"),
        ("[output-exists]", "--overwrite"),
    ),
    refused(
        "slurm/settings-empty",
        "an empty file of settings",
        with_settings(""),
        (*INVALID, "executor"),
    ),
    refused(
        "slurm/settings-broken",
        "a file of settings that is not YAML",
        with_settings("executor: [slurm"),
        INVALID,
    ),
    refused(
        "slurm/setting-unknown",
        "an unknown setting",
        with_settings("executor: slurm\nall: {partitoin: gpu}\n"),
        (*INVALID, "partitoin", "partition"),
    ),
    refused(
        "slurm/time-invalid",
        "a time limit that is not a time",
        with_settings("executor: slurm\nall: {time: two hours}\n"),
        (*INVALID, "'all.time'"),
    ),
    refused(
        "slurm/time-too-short",
        "a time limit shorter than the warning before it",
        with_settings("executor: slurm\nstages: {train: {time: 00:01:00}}\n"),
        (*INVALID, "stages.train.time", "warn_seconds"),
    ),
    refused(
        "slurm/line-break",
        "a setting that would add a line to the script",
        with_settings('executor: slurm\nall: {partition: "gpu\\nrm"}\n'),
        (*INVALID, "partition"),
    ),
    refused(
        "slurm/paths-missing",
        "scripts of a study without its table of patients",
        lambda box: remove(box.study.train_paths) or DRY,
        "[table-missing]",
    ),
    refused(
        "slurm/scripts-of-all-studies",
        "scripts of all studies",
        lambda box: [*DRY, "--user"],
        "[flags-contradict]",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_slurm(analyzed: Sandbox, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(analyzed.folder / "configuration"))
    meets(analyzed, "slurm", ["--results", analyzed.study.results, "--numpy", analyzed.study.numpy], fault)
