"""Each command line in the docs is parsed, and run in a folder like the one that its page describes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from walkthrough import PAGES, Block, blocks

from mist_dagster import cli

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [
    pytest.param(list(group), id=page)
    for page, group in groupby((block for block in BLOCKS if not block.skipped), key=lambda block: block.page)
]


def named(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("block", BLOCKS, ids=named)
def test_every_command_of_ours_is_accepted(block: Block) -> None:
    for line in block.commands:
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            name = words[0].removeprefix("mist_") if words and words[0].startswith("mist_") else ""
            if name in cli.COMMANDS and not {"--help", "--describe"} & set(words) and "..." not in words:
                cli.parser(name).parsed([word for word in words[1:] if word not in "><|&"])
            elif name:
                assert callable(getattr(cli, name))


def test_every_block_runs_or_says_why_not() -> None:
    undecided = []
    for page, group in groupby(BLOCKS, key=lambda block: block.page):
        ran: str | None = None
        for block in group:
            ran = block.folder or ran
            if not block.skipped and ran is None:
                undecided.append(f"{page}:{block.line}")
    assert undecided == []


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="session")
def trained(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study and the other files that the pages name."""
    folder = tmp_path_factory.mktemp("trained") / "folder"
    shutil.copytree(sound, folder, ignore=shutil.ignore_patterns("home_of_the_study"))
    results = folder / "results"
    for name in "abc":
        shutil.copytree(results / "predictions" / "train" / "raw", folder / name)
        shutil.copy(results / "results.csv", folder / name)
    shutil.copytree(results, folder / "elsewhere")
    table = (results / "test_paths.csv").read_text(encoding="utf-8")
    (folder / "new.csv").write_text(table.replace("../data", "data"), encoding="utf-8")
    pairs = (results / "evaluation_paths.csv").read_text(encoding="utf-8")
    pairs = pairs.replace("../data", "data").replace("predictions/train", "results/predictions/train")
    (folder / "pairs.csv").write_text(pairs, encoding="utf-8")
    shutil.copy(results / "config.json", folder / "config.json")
    step = '{"transform": "remove_small_objects", "apply_to_labels": [-1], "per_label": true, "kwargs": {}}'
    (folder / "strategy.json").write_text(f"[{step}]", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def hippocampus(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight training and two test patients of the Decathlon's hippocampus task."""
    source, folder = shared / "data" / "Task04_Hippocampus", tmp_path_factory.mktemp("hippocampus")
    task = folder / "Task04_Hippocampus"
    task.mkdir()
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (task / name).symlink_to(source / name)
    described = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    few = {"training": described["training"][:8], "test": described["test"][:2]}
    (task / "dataset.json").write_text(json.dumps({**described, **few}), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_succeed(
    page: list[Block], empty_home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "nothing"
    for number, block in enumerate(page):
        if block.folder is not None:
            folder = tmp_path / str(number) / "work"
            shutil.copytree(request.getfixturevalue(block.folder), folder, symlinks=True)
            shutil.copytree(empty_home, folder.parent / "home")
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(folder.parent / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        script = ["bash", "-euo", "pipefail", "-c", block.script]
        run = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{named(block)}\n{block.script}\n{run.stdout}\n{run.stderr}"
