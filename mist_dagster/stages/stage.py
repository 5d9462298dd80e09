"""The type of a row in the table of stages. What a row says of a particular stage is in the table."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mist_dagster.provenance import is_shared
from mist_dagster.stages.inspection import Inspection
from mist_ops.config import STEP_VERSIONS, StudyConfig
from mist_ops.errors import MistError
from mist_ops.files import json_hash
from mist_ops.steps import digest, settings
from mist_ops.study import Study

Partitions = Literal["patients", "folds", "test_patients"]
"""What the partitions of a stage are."""

WHOLE = ""
"""Key of the one artifact of a stage without partitions."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of a study, from its assets to how their state is tracked.

    Attributes:
        name: Name of the stage, of its job after the study's, and of its tag.
        assets: Assets that a run of the stage materializes. The last one gets the run config and the ``in_sync`` check,
            unless ``configured`` and ``checked`` name others.
        description: What a run does, for the list of jobs.
        module: Module whose ``build(study, partitions)`` returns the assets; empty if another stage's does.
        action: Verb of a report: ``Preprocess``.
        doing: What its runs do, in a report: ``Preprocessing``.
        noun: What a partition is called in a report: ``patient``.
        all_settings: Whether a run also materializes the settings of all stages.
        partitions: What the partitions of the stage are.
        step: Step of ``mist_ops`` whose settings the stage reads.
        sections: Dotted paths of the settings that the stage reads, if they are not those of a step.
        version: Version of what the stage computes; None for that of the step.
        locate: Path of the artifact of a partition.
        content: Recorded version of an existing artifact; None if it is missing or not on record.
        reads: Content of everything that the artifact is made from, by name, for stages that are
            tracked by ``stages.records`` only.
        follows: Stages whose artifacts this one is made from. It waits for their runs; with ``reads``, it is stale
            where they are.
        stale: Partitions that need a run, with the reason of each.
        optional: Whether only some users want it: a missing artifact is not stale, and the assets are in a group of
            their own.
        observes: Stage that records the state of the source files before this one runs.
        options: Run config of the stage that the machine decides, of ``workers``, ``device`` and ``figures``.
        continues: Whether stages after this one run although some of its patients failed.
        priority: Place in the queue; higher runs first.
    """

    name: str
    assets: Sequence[str]
    description: str
    module: str = ""
    action: str = ""
    doing: str = ""
    noun: str = ""
    all_settings: bool = False
    configured: str = ""
    checked: str = ""
    partitions: Partitions | None = None
    step: str | None = None
    sections: Sequence[str] = ()
    version: int | None = None
    locate: Callable[[Study, str], Path] | None = None
    content: Callable[[Study, str], str | None] | None = None
    reads: Callable[[Inspection], Mapping[str, str]] | None = None
    follows: Sequence[str] = ()
    stale: Callable[[Inspection], Mapping[str, str]] | None = None
    optional: bool = False
    observes: str | None = None
    options: frozenset[str] = frozenset()
    continues: bool = False
    priority: int = 1

    @property
    def target(self) -> str:
        """The asset that has the ``in_sync`` check and the partitions."""
        return self.checked or self.assets[-1]

    @property
    def shared(self) -> bool:
        """Whether the replicas of a study share its artifacts, so that its runs are those of the original."""
        return is_shared(self.assets[-1])

    @property
    def operation(self) -> str:
        """Name of the operation that takes the run config, after the study's."""
        return self.configured or self.assets[-1]

    @property
    def settings(self) -> str | None:
        """Name of the asset of the settings that the stage reads, if it has one."""
        name = self.step or (self.name if self.sections else None)
        return f"{name}_settings" if name else None

    @property
    def kept_as(self) -> str:
        """The step by which its artifacts are kept."""
        return self.step if self.step and not self.reads else self.name

    def read_settings(self, config: StudyConfig) -> dict[str, Any]:
        """The settings that the stage reads, by dotted path."""
        return settings(config, self.step) if self.step else dict(config.values(self.sections))

    def settings_version(self, config: StudyConfig) -> str:
        """Hash of these settings, the same for values that have the same effect."""
        return digest(config, self.step) if self.step else json_hash(self.read_settings(config))

    @property
    def code_version(self) -> str:
        """The version of what the stage computes, as Dagster records it."""
        return str(STEP_VERSIONS[self.step] if self.step and self.version is None else self.version or 1)

    def partition_of(self, study: Study, path: Path) -> str | None:
        """Return the partition whose artifact is at a path, ``WHOLE`` if there is just one, None for other files."""
        if self.locate is None:
            return None
        if self.partitions is None:
            return WHOLE if path == self.locate(study, WHOLE) else None
        probe = "fold_0"  # valid as a patient id as well as a fold
        key = path.name.removesuffix(self.locate(study, probe).name.removeprefix(probe))
        with suppress(MistError, ValueError):  # a file that is not of the study
            return key if path == self.locate(study, key) else None
        return None
