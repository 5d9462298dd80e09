"""The evidence pack of a study: everything behind its models in one file that anyone can verify."""

from pathlib import Path
from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.instance import addresses
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import CODE_VERSION, asset_key
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES
from mist_dagster.stages.records import recording
from mist_ops.study import Study


class EvidenceRun(dg.Config):
    """How to write the pack."""

    pseudonymize: Optional[str] = Field(  # noqa: UP045
        None, description="File with the key of pseudonyms for the ids of patients; a new key is written if missing."
    )


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """evidence.zip."""

    @dg.asset(
        key=asset_key(study, "evidence_pack"),
        group_name=study.key,
        deps=[asset_key(study, name) for name in ("fold_model", "cv_prediction", "evaluation", "test_prediction")],
        code_version=CODE_VERSION,
        kinds={"zip"},
    )
    def evidence_pack(config: EvidenceRun, progress: dg.ResourceParam[Progress]) -> dg.MaterializeResult:
        """Passports down to the hashes of scans, scores, reviews and history of all models, in one file."""
        from mist_ops.evidence.names import read_key
        from mist_ops.evidence.pack import write_pack
        from mist_ops.evidence.sources import models_of

        key = read_key(Path(config.pseudonymize).expanduser()) if config.pseudonymize else None
        with recording(study, STAGES["evidence"]):
            pack = write_pack(study, models_of(study.models), study.evidence, key)
        for note in pack.notes:
            progress.note(note)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(pack.sha256),
            metadata={
                "pack": metadata.path(study.evidence),
                "sha256": pack.sha256,
                "models": pack.models,
                "patients": pack.patients,
                "pseudonyms": key is not None,
                "page": metadata.page(addresses.evidence(study)),
            },
        )

    return [evidence_pack]
