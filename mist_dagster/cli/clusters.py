"""``mist_slurm``: settings of Slurm, and the scripts that follow from them."""

import sys
from pathlib import Path

from mist_dagster.cli.options import SlurmOptions
from mist_dagster.cli.run_config import Settings
from mist_dagster.freshness.requests import propose
from mist_dagster.instance.studies import register
from mist_dagster.launch import Launcher
from mist_dagster.runtime.progress import shown
from mist_dagster.slurm.script import render
from mist_dagster.slurm.settings import NAME, STAGES, SlurmSettings, find, user_file
from mist_dagster.slurm.template import template
from mist_ops.config import read_config
from mist_ops.dataset import read_paths, read_train_paths
from mist_ops.errors import ConfigError
from mist_ops.files import write_text
from mist_ops.jobs.folder import JobFolder
from mist_ops.study import Study


def slurm(launcher: Launcher, options: SlurmOptions, settings: Settings) -> None:
    """Write mist_slurm.yaml with what the study needs, or print scripts."""
    if options.dry_run and options.user:
        raise ConfigError(
            "--dry-run shows the scripts of a study. Give it without --user.",
            code="flags-contradict",
            found=["--dry-run", "--user"],
        )
    analyzed = (options.results.expanduser() / "config.json").is_file()
    study = register(options.results, numpy=options.numpy, name=options.study) if analyzed else None
    if study is None and not options.user:
        raise ConfigError(
            f"{options.results} holds no config.json. Run mist_analyze first, name its folder with --results, or write "
            "the settings of all your studies with --user.",
            code="config-missing",
            file=options.results / "config.json",
        )
    if study and options.dry_run:
        _print(launcher, study)
        return
    path = user_file() if options.user or study is None else study.results / NAME
    if path.exists() and not options.overwrite:
        raise ConfigError(
            f"{path} already exists. Edit it, or replace it with --overwrite.", code="output-exists", file=path
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, template(propose(study, launcher.instance) if study else {}))
    launcher.progress.note(
        f"Wrote {shown(path)}. Enter your partition and account; mist_slurm --dry-run shows the scripts."
    )


def _print(launcher: Launcher, study: Study) -> None:
    """Print the script of each stage, with what is proposed for it."""
    settings = find(study) or SlurmSettings(executor="slurm")
    proposals = propose(study, launcher.instance)
    for stage in STAGES:
        folder = JobFolder(Path(study.job("run")) / stage)
        request = settings.request(stage)
        array = None if stage == "train" else -(-_patients(study, stage) // (request.patients or 1)) or 1
        sys.stdout.write(f"# ── {stage} ──\n")
        sys.stdout.writelines(f"# {line}\n" for line in proposals[stage].lines)
        sys.stdout.write(f"{render(folder, settings, stage, f'mist-run-{stage}', array)}\n")


def _patients(study: Study, stage: str) -> int:
    if stage != "test":
        return len(read_train_paths(study.train_paths).cases)
    channels = read_config(study.config).dataset_info.images
    return len(read_paths(study.test_paths, channels)) if study.test_paths.is_file() else 0
