"""A small file for each artifact without partitions: what it was made from, as content hashes.

A stage whose row has ``reads`` writes it with ``recording`` and needs no other code to be tracked as stale. Stages of
``mist_ops`` with records of their own (arrays, models, predictions, scores) do not use it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mist_dagster.stages.inspection import Inspection
from mist_dagster.stages.stage import WHOLE, Stage
from mist_ops.errors import few
from mist_ops.files import file_hash, json_hash, read_object, write_json
from mist_ops.steps import changed_settings, changes
from mist_ops.study import Study


class InputsRecord(BaseModel):
    """What an artifact was made from.

    Attributes:
        settings: The settings that its stage reads, by dotted path; a digest of more in older records.
        version: Version of what its stage computes.
        inputs: Content hash of everything else, by name.
    """

    model_config = ConfigDict(frozen=True)

    settings: dict[str, Any] | str
    version: str
    inputs: Mapping[str, str]


def inputs_now(seen: Inspection, stage: Stage) -> InputsRecord:
    """What an artifact would be made from now."""
    settings = stage.read_settings(seen.config)
    inputs = stage.reads(seen) if stage.reads else {}
    return InputsRecord(settings=settings, version=stage.code_version, inputs=inputs)


@contextlib.contextmanager
def recording(study: Study, stage: Stage) -> Iterator[None]:
    """Record what an artifact was made from once the block has made it.

    Inputs are read first: one that changes while the block runs makes the artifact stale.
    """
    now = inputs_now(Inspection(study, as_analyzed=True), stage)
    yield
    write_json(study.inputs_record(stage.name), now.model_dump(mode="json"))


def stale_by_record(seen: Inspection, stage: Stage) -> Mapping[str, str]:
    """The artifact of a stage, if anything that it was made from has changed."""
    assert stage.locate is not None
    path = stage.locate(seen.study, WHOLE)
    if not path.exists():
        return {} if stage.optional else {path.name: "missing"}
    upstream = [name for name in stage.follows if seen.stale.get(name)]
    if upstream:
        return {path.name: f"it follows {few(upstream)}, which needs a run"}
    try:
        then = InputsRecord.model_validate(read_object(seen.study.inputs_record(stage.name)))
    except (OSError, ValueError, ValidationError):
        return {path.name: "its inputs are not on record"}
    now = inputs_now(seen, stage)
    changed = [*_settings(then, seen, stage), *_differences(then, now)]
    left = changed and seen.kept.left(
        (stage.kept_as, path.name), changed, file_hash(path), lambda: json_hash(now.inputs)
    )
    return {path.name: left} if left else {}


def _settings(then: InputsRecord, seen: Inspection, stage: Stage) -> Iterator[str]:
    if stage.step:
        yield from changed_settings(then.settings, seen.config, stage.step).values()
    elif isinstance(then.settings, str):
        yield from () if then.settings == stage.settings_version(seen.config) else ("its settings changed",)
    else:
        yield from changes(then.settings, stage.read_settings(seen.config)).values()


def _differences(then: InputsRecord, now: InputsRecord) -> Iterator[str]:
    if then.version != now.version:
        yield f"its code changed from version {then.version} to {now.version}"
    names = sorted(then.inputs.keys() | now.inputs.keys())
    changed = [name for name in names if then.inputs.get(name) != now.inputs.get(name)]
    if changed:
        yield f"{few(changed)} changed"
