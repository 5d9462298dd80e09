"""From a file back to the asset that produced it, and to its records."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from mist_dagster.instance.studies import registered_studies
from mist_dagster.provenance import asset_key, recorded_version
from mist_dagster.stages import STAGES, TOOLS
from mist_ops.files import file_hash
from mist_ops.study import Study

_OUTPUTS = "tool_outputs"

OUTPUTS = dg.DynamicPartitionsDefinition(name=_OUTPUTS)
"""The outputs of tools, by their absolute paths."""

CONTENT = "output sha256"
"""Name of the output's hash in the metadata of a record."""

Producer = tuple[dg.AssetKey, str | None]
"""An asset and, if it has partitions, one of them."""


MAX_PARTITIONS = 50
"""Partitions of an asset up to which each is listed; of more, only their number."""


def provenance_of(instance: dg.DagsterInstance, paths: Sequence[Path]) -> dict[str, Any]:
    """Records of the assets that produced some files: version, run, inputs and provenance by asset and partition.

    Files of a folder that one tool produced share an entry. Files that no asset produced have none.
    """
    studies, outputs = registered_studies(), frozenset(instance.get_dynamic_partitions(_OUTPUTS))
    files = {made: path for path in reversed(paths) for made in _producers(studies, outputs, path)}
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for key, _ in files):
        partitions = {partition: path for (made, partition), path in files.items() if made == key}
        if len(partitions) > MAX_PARTITIONS:
            found[key.to_user_string()] = {"partitions": len(partitions)}
        else:
            found |= {_name(key, name): _record(instance, key, name, path) for name, path in partitions.items()}
    return {name: record for name, record in found.items() if record}


def _name(key: dg.AssetKey, partition: str | None) -> str:
    return key.to_user_string() + (f" [{partition}]" if partition else "")


def _record(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, path: Path) -> dict[str, Any]:
    filters = dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None)
    found = instance.fetch_materializations(filters, limit=1).records
    made = found[0].asset_materialization if found else None
    if made is None:
        return {}
    shown = {name: value.value for name, value in made.metadata.items() if name in ("inputs", "provenance", CONTENT)}
    # A failed run or an edit may have changed the file since.
    changed = CONTENT in shown and path.is_file() and shown[CONTENT] != file_hash(path)
    return {"version": recorded_version(made.tags), "run": found[0].run_id, "changed since": changed, **shown}


def _producers(studies: Sequence[Study], outputs: Collection[str], path: Path) -> Iterator[Producer]:
    for study in studies:
        if path.is_relative_to(study.results):
            yield from _of_study(study, path)
    for output in (path, path.parent, path.parent.parent):
        if str(output) in outputs:
            yield from ((dg.AssetKey(["tools", tool]), str(output)) for tool in TOOLS)
            return  # not of the outputs in whose folder it is


def _of_study(study: Study, path: Path) -> Iterator[Producer]:
    for stage in STAGES.values():
        partition = stage.partition_of(study, path)
        if partition is not None:
            yield asset_key(study, stage.target), partition or None
            return
