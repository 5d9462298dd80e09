"""Records rebuilt from the files of a study, where Dagster's own are lost."""

from collections.abc import Iterable

import dagster as dg

from mist_dagster.dagster_private import DATA_VERSION_TAG
from mist_dagster.freshness.status import Status
from mist_dagster.launch import Launcher
from mist_dagster.provenance import asset_key, provenance_tags, recorded_version, version_tags
from mist_dagster.stages import WHOLE, Inspection, Stage, keys_of, tracked_of, version_on_record
from mist_dagster.stages.settings import config_versions
from mist_ops.study import Study


def rebuild(launcher: Launcher, study: Study, found: Status) -> int:
    """Record every artifact in the folders of a study; return their number.

    A current artifact gets the provenance that it would have if it had just been made. Of a stale one the record says
    only that it exists.
    """
    if study.data:
        launcher.run_stage(study, "observe")
    recorder, seen, count = Recorder(launcher, study), Inspection(study, as_analyzed=True), 0
    for name, version in config_versions(study, seen.config).items():
        recorder.record(name, None, version, current=True)
        count += 1
    for stage in tracked_of(study):
        for key in keys_of(stage, seen) if stage.name != "analyze" else ():
            existing = version_on_record(stage, study, key)
            if existing is not None:
                stale = found.of(stage.name)
                current = key not in stale if key != WHOLE else not stale
                recorder.record(stage.target, key or None, existing, current=current)
                count += 1
    return count


def record_current(launcher: Launcher, study: Study, stage: Stage, keys: Iterable[str]) -> int:
    """Record the current artifacts of a stage whose latest record is another one; return their number.

    A run that was killed may have finished them without recording them.

    Args:
        launcher: The records, and the definitions.
        study: The study.
        stage: The stage.
        keys: Partitions that are current.
    """
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    tags = launcher.instance.event_log_storage.get_latest_tags_by_partition(
        asset_key(study, stage.target), kind, [DATA_VERSION_TAG]
    )
    versions = {key: version_on_record(stage, study, key) for key in keys}
    missing = {key: found for key, found in versions.items() if found and recorded_version(tags.get(key)) != found}
    if missing:
        recorder = Recorder(launcher, study)
        for key, version in missing.items():
            recorder.record(stage.target, key, version, current=True)
    return len(missing)


class Recorder:
    """Records artifacts of a study that no run made just now."""

    def __init__(self, launcher: Launcher, study: Study) -> None:
        self._instance, self._study = launcher.instance, study
        self._graph = launcher.definitions(study).resolve_asset_graph()

    def record(
        self,
        asset: str,
        partition: str | None,
        version: str,
        *,
        current: bool,
        description: str = "Recorded from its files.",
    ) -> None:
        """Record an artifact.

        Args:
            asset: Name of its asset.
            partition: Its patient or fold.
            version: Its data version.
            current: Whether it was made from what is upstream now; else the record says only that it exists.
            description: What the UI says of the record.
        """
        node = self._graph.get(asset_key(self._study, asset))
        origin = provenance_tags(self._instance, node.code_version or "", node.parent_keys) if current else {}
        tags = {**origin, **version_tags(version)}
        self._instance.report_runless_asset_event(
            dg.AssetMaterialization(node.key, partition=partition, description=description, tags=tags)
        )
