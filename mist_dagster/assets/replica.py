"""The training settings of a replica: those of the original with another seed. What precedes them is shared."""

import dagster as dg

from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import CODE_VERSION, asset_key
from mist_ops.study import Study


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetSpec]:
    """The training settings, which are recorded when a command reads them; no run makes them."""
    assert study.original
    return [
        dg.AssetSpec(
            asset_key(study, "training_settings"),
            deps=[asset_key(study.original, "training_settings")],
            description=f"The training settings of {study.original.name} with seed {study.seed}.",
            group_name=study.key,
            code_version=CODE_VERSION,
            kinds={"json"},
        )
    ]
