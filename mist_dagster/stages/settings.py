"""config.json as assets: the whole of it, the fold assignment, and the settings that each stage reads."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from mist_dagster.provenance import asset_key, is_shared, latest_tags, recorded_version, upstream_tags, version_tags
from mist_dagster.stages import setting_assets
from mist_ops.analysis.analyze import EDITED, fold_origins
from mist_ops.config import StudyConfig, check_names, edits, override, read_config, write_config
from mist_ops.errors import counted, few
from mist_ops.files import file_hash
from mist_ops.steps import old_digest
from mist_ops.study import Study


def config_versions(study: Study, config: StudyConfig) -> dict[str, str]:
    """Data versions of config.json, of the fold assignment, and of the settings of each stage.

    Of a replica, only of those that it does not share with the original.
    """
    if study.original:
        of_stages = {name: stage.settings_version(config) for name, stage in setting_assets().items()}
        return {name: version for name, version in of_stages.items() if not is_shared(name)}
    return {
        "study_config": file_hash(study.config),
        "fold_assignment": file_hash(study.train_paths),
        **{name: stage.settings_version(config) for name, stage in setting_assets().items()},
    }


def shown_settings(name: str, config: StudyConfig) -> dict[str, Any]:
    """The settings that an asset of the analysis represents."""
    stage = setting_assets().get(name)
    return config.model_dump(mode="json") if stage is None else stage.read_settings(config)


def configure(instance: dg.DagsterInstance, study: Study, settings: Mapping[str, Any], source: str) -> StudyConfig:
    """Write settings to config.json if they are valid and change it, and report its edits to the graph.

    Call it in a block of ``settings_lock``.

    Args:
        instance: The records.
        study: The study.
        settings: Values by dotted path.
        source: Where they were given, for the record.

    Returns:
        The configuration with the settings.

    Raises:
        ConfigError: A value is invalid, a name is unknown, the network does not support the patch size, or the loss
            lacks distance maps. Nothing is written.
    """
    before = read_config(study.config)
    config = overridden(before, settings)
    changes = edits(before, config)
    if changes:
        write_config(study.config, config)
    listed = ", ".join(f"{path} = {value}" for path, value in changes.items())
    adopt_config(instance, study, config, f"{source}: {listed}" if listed else "config.json was edited")
    return config


def overridden(config: StudyConfig, settings: Mapping[str, Any]) -> StudyConfig:
    """Return a validated copy with settings replaced.

    Raises:
        ConfigError: As ``configure`` does.
    """
    changed = override(config, settings)
    if any(path.startswith(("model", "training", "spatial_config")) for path in settings):
        check_names(changed, settings)
    return changed


def adopt_config(instance: dg.DagsterInstance, study: Study, config: StudyConfig, reason: str) -> list[str]:
    """Report to the graph what changed in config.json since it was last recorded; return the assets that changed.

    Each asset of the analysis gets a new record; those with unchanged content keep their version, so that nothing
    downstream becomes stale. The rest of their provenance is kept: an edit is not a new analysis.
    """
    versions = config_versions(study, config)
    old = {name: latest_tags(instance, asset_key(study, name)) for name in versions}
    for name, stage in setting_assets().items():
        if name not in versions:
            continue
        # Versions that an earlier release recorded of the same settings stay, so that nothing becomes stale.
        if stage.step and recorded_version(old[name]) == old_digest(config, stage.step):
            versions[name] = recorded_version(old[name])
    changed = [name for name, version in versions.items() if recorded_version(old[name]) not in (version, "")]
    upstream: dict[str, str] = {}
    for name in versions if changed else ():
        key = asset_key(study, name)
        tags = {**old[name], **upstream, **version_tags(versions[name])}
        edited = _edited_folds(study) if name == "fold_assignment" and name in changed else reason
        settings = dg.MetadataValue.json(shown_settings(name, config))
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                key, description=edited, metadata={"edited": edited, "settings": settings}, tags=tags
            )
        )
        if not upstream:  # config.json comes first; the others are derived from it
            upstream = upstream_tags(instance, key)
    return changed


def _edited_folds(study: Study) -> str:
    edited = [case_id for case_id, origin in fold_origins(study).items() if origin == EDITED]
    return (
        f"train_paths.csv was edited: {counted(len(edited), 'patient')} ({few(edited, 20)}) are not in the folds that "
        "the analysis assigned"
    )
