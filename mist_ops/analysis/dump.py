"""The layout of data_dump.json, which is MIST's; ``statistics`` fills it, and ``narrative`` describes it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mist_ops.analysis.shapes import ShapeClass
from mist_ops.schema import Section

SizeCategory = Literal["tiny", "small", "medium", "large"]


class Distribution(Section):
    """Mean, population standard deviation and quartiles of one value per case."""

    mean: float
    std: float
    min: float
    p25: float
    median: float
    p75: float
    max: float


class ChannelIntensity(Section):
    """Intensities of the labeled voxels of one channel, over all cases."""

    mean: float
    std: float
    p01: float
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float


PERCENTILE_NAMES = tuple(name for name in ChannelIntensity.model_fields if name.startswith("p"))
"""The percentiles of ``ChannelIntensity``, ascending."""


class DatasetSummary(Section):
    """The dataset as a whole."""

    task: str
    modality: str
    num_patients: int
    num_channels: int
    channel_names: list[str]
    num_labels: int
    labels: list[int]
    final_classes: dict[str, list[int]]
    dataset_size_gb: float
    excluded_patients: dict[str, str] = Field(default_factory=dict, exclude_if=lambda reasons: not reasons)


class SpacingStatistics(Section):
    """Voxel spacing in mm, along the files' own axes."""

    per_axis: dict[str, Distribution]
    median_spacing_mm: list[float]
    anisotropy_ratio: float
    is_anisotropic: bool


class OriginalDimensions(Section):
    """Image sizes in voxels, along the files' own axes."""

    per_axis: dict[str, Distribution]


class Dimensions(Section):
    """Image sizes before and after resampling."""

    original: OriginalDimensions
    resampled_median: list[int]


class IntensityStatistics(Section):
    """Intensities by channel, and the labeled fraction of the image region."""

    per_channel: dict[str, ChannelIntensity]
    foreground_fraction: Distribution


class ImageStatistics(Section):
    """Statistics of the images."""

    spacing: SpacingStatistics
    dimensions: Dimensions
    intensity: IntensityStatistics


class VoxelCount(Section):
    """Voxels of a label per case; 0 where it is absent."""

    mean: float
    std: float
    min: int
    median: float
    max: int


class MeanShape(Section):
    """Shape descriptors averaged over the cases in which a label has a shape; None if it has none in any case."""

    linearity: float | None = None
    planarity: float | None = None
    sphericity: float | None = None
    shape_class: ShapeClass | Literal["unknown"] = "unknown"
    compactness: float | None = None
    skeleton_ratio: float | None = None


class LabelStatistics(Section):
    """One label over all cases.

    The last two list patients that keep nothing, or less than half, of its volume at the target spacing.
    """

    voxel_count: VoxelCount
    mean_volume_fraction_of_foreground_pct: float
    mean_volume_fraction_of_image_pct: float
    presence_rate_pct: float
    size_category: SizeCategory
    shape: MeanShape
    lost_in_patients: list[str] = Field(default_factory=list, exclude_if=lambda ids: not ids)
    reduced_in_patients: list[str] = Field(default_factory=list, exclude_if=lambda ids: not ids)


class ClassStatistics(Section):
    """One evaluation class over all cases."""

    constituent_labels: list[int]
    mean_volume_fraction_of_foreground_pct: float
    presence_rate_pct: float
    size_category: SizeCategory


class ClassImbalance(Section):
    """The most and the least frequent of the labels that occur."""

    imbalance_ratio: float
    dominant_label: int | None
    minority_label: int | None


class Labels(Section):
    """Statistics of the labels and of the evaluation classes."""

    per_label: dict[int, LabelStatistics]
    final_classes: dict[str, ClassStatistics]
    class_imbalance: ClassImbalance


class Statistics(Section):
    """The sections of data_dump.json that hold numbers."""

    dataset_summary: DatasetSummary
    image_statistics: ImageStatistics
    label_statistics: Labels


class DataDump(Statistics):
    """All of data_dump.json."""

    observations: list[str]
    mist_config_path: str
