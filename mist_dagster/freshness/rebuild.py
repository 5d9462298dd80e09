"""Records rebuilt from the files of a study, where Dagster's own are lost."""

from collections.abc import Mapping

import dagster as dg

from mist_dagster.freshness.status import Status
from mist_dagster.launch import Launcher
from mist_dagster.provenance import asset_key, provenance_tags, version_tags
from mist_dagster.stages import WHOLE, Inspection, keys_of, tracked, version_on_record
from mist_dagster.stages.settings import config_versions
from mist_ops.study import Study


def rebuild(launcher: Launcher, study: Study, found: Status) -> int:
    """Record every artifact in the folders of a study; return their number.

    A current artifact gets the provenance that it would have if it had just been made. Of a stale one the record says
    only that it exists.
    """
    if study.data:
        launcher.run_stage(study, "observe")
    graph = launcher.definitions(study).resolve_asset_graph()
    seen, count = Inspection(study), 0

    def record(asset: str, partition: str | None, version: str, current: bool) -> None:
        node = graph.get(asset_key(study, asset))
        origin = provenance_tags(launcher.instance, node.code_version or "", node.parent_keys) if current else {}
        _report(launcher.instance, node.key, partition, {**origin, **version_tags(version)})

    for name, version in config_versions(study, seen.config).items():
        record(name, None, version, current=True)
        count += 1
    for stage in tracked():
        for key in keys_of(stage, seen) if stage.name != "analyze" else ():
            existing = version_on_record(stage, study, key)
            if existing is not None:
                stale = found.of(stage.name)
                record(stage.target, key or None, existing, current=key not in stale if key != WHOLE else not stale)
                count += 1
    return count


def _report(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, tags: Mapping[str, str]) -> None:
    instance.report_runless_asset_event(
        dg.AssetMaterialization(key, partition=partition, description="Recorded from its files.", tags=tags)
    )
