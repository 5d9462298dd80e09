"""Protocols of lesion-wise metrics, and the parameters that override them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from mist_ops.metrics.lesions.rules import Rules
from mist_ops.metrics.surface import Tolerance

Protocol: TypeAlias = Annotated[
    Literal["mist", "brats2023"], Field(description="Matching rules: MIST's, or those of the BraTS 2023 script.")
]
Volume: TypeAlias = Annotated[
    float | None,
    Field(ge=0.0, description="Lesions below this volume in mm³ are ignored; null for the protocol's default."),
]
Dilation: TypeAlias = Annotated[
    int | None,
    Field(
        ge=0, le=100, description="Voxels by which a lesion is dilated for matching; null for the protocol's default."
    ),
]
Consolidation: TypeAlias = Annotated[
    int | None,
    Field(
        ge=0,
        le=100,
        description="Merge lesions that touch after dilation by this many voxels; null for the protocol's default.",
    ),
]


def rules_of(
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
    tolerance: Tolerance = 1.0,
) -> Rules:
    """Rules of a protocol, overridden by the parameters given.

    ``mist``: lesions from 10 mm³, dilation 3, no consolidation, components over faces and edges; a missed lesion or a
    false positive scores the diagonal of the image.
    ``brats2023``, the challenge's script for gliomas: lesions above 50 mm³, dilation 3, consolidation equal to the
    dilation, components over corners too, 374 mm. For metastases it has 2 mm³ and dilation 1.
    """
    official = protocol == "brats2023"
    dilation = 3 if dilation_iters is None else dilation_iters
    volume, consolidation = (50.0, dilation) if official else (10.0, 0)
    return Rules(
        connectivity=26 if official else 18,
        min_volume=volume if min_lesion_volume is None else min_lesion_volume,
        exclusive=official,
        dilation=dilation,
        consolidation=consolidation if gt_consolidation_iters is None else gt_consolidation_iters,
        penalty=374.0 if official else None,
        empty_is_worst=not official,
        tolerance=tolerance,
    )
