"""What the assets of all tools share: their place in the graph, and what is recorded of an output."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg

from mist_dagster import metadata
from mist_dagster.lineage import CONTENT, OUTPUTS, provenance_of
from mist_dagster.provenance import CODE_VERSION, Inputs, listed
from mist_ops.errors import few
from mist_ops.files import file_hash, json_hash

Decorator: TypeAlias = Callable[[Callable[..., Any]], dg.AssetsDefinition]


def tool_asset(kind: str, pool: str | None = None, **checks: str) -> Decorator:
    """Decorate the asset of a tool.

    It has no upstream assets, as its inputs may be any files: the UI would warn of those that were never materialized.
    What produced the files is in the metadata of each output.

    Args:
        kind: What an output is, for the icon in the UI.
        pool: Dagster's pool that limits how many run at once.
        checks: Descriptions of the checks that the asset evaluates, by name.
    """

    def decorated(function: Callable[..., Any]) -> dg.AssetsDefinition:
        key = dg.AssetKey(["tools", function.__name__])
        specs = [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in checks.items()]
        return _asset(kind, pool, specs)(function)

    return decorated


def _asset(kind: str, pool: str | None, checks: Sequence[dg.AssetCheckSpec]) -> Decorator:
    return dg.asset(
        key_prefix=["tools"],
        group_name="tools",
        partitions_def=OUTPUTS,
        code_version=CODE_VERSION,
        kinds={kind},
        pool=pool,
        check_specs=checks or None,
    )


def finish(collected: tuple[Mapping[str, object], Mapping[str, str]]) -> None:
    """Fail if any item failed, after all others are done."""
    results, failures = collected
    if failures:
        raise dg.Failure(f"{len(failures)} of {len(failures) + len(results)} failed: {few(list(failures))}.")


def recorded(
    context: dg.AssetExecutionContext,
    output: Path,
    inputs: Inputs,
    shown: metadata.Metadata | None = None,
    checks: Sequence[dg.AssetCheckResult] = (),
) -> dg.MaterializeResult:
    """Record an output with the content of its inputs and their provenance.

    A launchpad may give the partition of a new output as a tag, which Dagster does not add to the known ones by itself.
    """
    assert OUTPUTS.name
    context.instance.add_dynamic_partitions(OUTPUTS.name, [context.partition_key])
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
        check_results=checks,
    )
