"""Stale outputs of tools that depend on a study: rankings, ensembles, postprocessed masks, scores.

Unlike the files of a study they may be anywhere, so Dagster's records decide.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from mist_dagster.freshness.status import Status
from mist_dagster.launch import Launcher
from mist_dagster.stages import STAGES, TOOLS
from mist_ops.files import file_hash
from mist_ops.study import Study


@dataclass(frozen=True, eq=False)
class Output:
    """The latest output of a tool at a path.

    Attributes:
        tool: The tool.
        path: A table or a folder.
        run_id: The run that made it.
        inputs: SHA-256 of each input file; empty for a kind with more than ``MAX_LISTED`` files.
    """

    tool: str
    path: Path
    run_id: str
    inputs: Mapping[Path, str]


def stale_outputs(instance: dg.DagsterInstance, study: Study, found: Status) -> dict[Output, str]:
    """Outputs that depend on a study, directly or through others, and are stale, with the reason of each.

    Args:
        instance: Where outputs are recorded.
        study: The study.
        found: What of the study itself is stale.
    """
    outputs, concerned, pending = _outputs(instance), {study.results}, set(_stale_files(study, found))
    stale: dict[Output, str] = {}
    for _ in TOOLS:  # no chain of outputs is longer
        for output in outputs:
            if output in stale or not any(_within(path, concerned) for path in output.inputs):
                continue
            concerned.add(output.path)
            reason = next(_reasons(output, pending), None)
            if reason:
                stale[output] = reason
                pending.add(output.path)
    return stale


def rebuild_outputs(launcher: Launcher, study: Study, found: Status) -> None:
    """Rebuild stale outputs with the run config of before, each after those that it depends on.

    Raises:
        RunFailedError: A run failed; the following ones were not started.
    """
    for _ in TOOLS:
        stale = stale_outputs(launcher.instance, study, found)
        waiting = {output.path for output in stale}
        for output in stale:
            if not any(_within(path, waiting) for path in output.inputs):
                launcher.run_tool(output.tool, output.path, _run_config(launcher.instance, output))


def _run_config(instance: dg.DagsterInstance, output: Output) -> dict[str, object]:
    run = instance.get_run_by_id(output.run_id)
    operations: Any = run.run_config["ops"] if run else {}
    config = operations.get(f"tools__{output.tool}", {}).get("config", {})
    return {**config, "overwrite": True} if "overwrite" in config else config


def _outputs(instance: dg.DagsterInstance) -> list[Output]:
    keys = {tool: dg.AssetKey(["tools", tool]) for tool in TOOLS}
    return [
        output
        for tool, key in keys.items()
        for partition in sorted(instance.get_materialized_partitions(key))
        for output in _last(instance, tool, key, partition)
    ]


def _last(instance: dg.DagsterInstance, tool: str, key: dg.AssetKey, partition: str) -> Iterator[Output]:
    [record] = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=[partition]), limit=1
    ).records
    made = record.asset_materialization
    parts: Any = made.metadata["inputs"].value if made and "inputs" in made.metadata else {}
    listed = [part for part in parts.values() if "sha256 of all" not in part]
    files = {Path(path): str(content) for part in listed for path, content in part.items()}
    if Path(partition).exists():  # a deleted output is not stale
        yield Output(tool, Path(partition), record.run_id, files)


def _stale_files(study: Study, found: Status) -> Iterator[Path]:
    for name, reasons in found.stale.items():
        locate = STAGES[name].locate
        if locate is not None and name != "analyze":
            yield from (locate(study, key) for key in reasons)


def _reasons(output: Output, pending: Collection[Path]) -> Iterator[str]:
    for path, known in output.inputs.items():
        if _within(path, pending):
            yield f"{path.name} needs a rebuild"
        elif not path.is_file():
            yield f"{path} is missing"
        elif file_hash(path) != known:
            yield f"{path.name} changed"


def _within(path: Path, places: Collection[Path]) -> bool:
    return any(place in places for place in (path, *path.parents))
