"""What the assets of all tools share: their place in the graph, and what is recorded of an output."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from mist_dagster import metadata
from mist_dagster.lineage import CONTENT, OUTPUTS, provenance_of
from mist_dagster.provenance import CODE_VERSION, Inputs, listed
from mist_ops.errors import few
from mist_ops.files import file_hash, json_hash


def tool_asset(
    kind: str, made_from: Iterable[str] = (), pool: str | None = None
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorate the asset of a tool.

    Args:
        kind: What an output is, for the icon in the UI.
        made_from: Tools whose outputs are common inputs. The edges are for the graph only: which outputs a run used is
            in its metadata, so the partition mapping is empty.
        pool: Dagster's pool that limits how many run at once.
    """
    none_in_general = dg.SpecificPartitionsPartitionMapping([])
    return dg.asset(
        key_prefix=["tools"],
        group_name="tools",
        partitions_def=OUTPUTS,
        code_version=CODE_VERSION,
        deps=[dg.AssetDep(dg.AssetKey(["tools", name]), partition_mapping=none_in_general) for name in made_from],
        kinds={kind},
        pool=pool,
    )


def finish(collected: tuple[Mapping[str, object], Mapping[str, str]]) -> None:
    """Fail if any item failed, after all others are done."""
    results, failures = collected
    if failures:
        raise dg.Failure(f"{len(failures)} of {len(failures) + len(results)} failed: {few(list(failures))}.")


def recorded(
    context: dg.AssetExecutionContext, output: Path, inputs: Inputs, shown: metadata.Metadata | None = None
) -> dg.MaterializeResult:
    """Record an output with the content of its inputs and their provenance."""
    content = {CONTENT: file_hash(output)} if output.is_file() else {}
    origins = provenance_of(context.instance, [Path(path) for paths in inputs.values() for path in paths])
    return dg.MaterializeResult(
        data_version=dg.DataVersion(json_hash({**inputs, **content})),
        metadata={
            "output": metadata.path(output),
            **content,
            **(shown or {}),
            "inputs": listed(inputs),
            "provenance": dg.MetadataValue.json(origins),
        },
    )
