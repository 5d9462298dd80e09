"""Observations on the numbers of a data dump, and the data dump as Markdown.

Formulas in the text are those of ``shapes``, ``intensities`` and ``statistics``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mist_ops.analysis.dump import (
    PERCENTILE_NAMES,
    ClassImbalance,
    ClassStatistics,
    DataDump,
    DatasetSummary,
    Dimensions,
    ImageStatistics,
    IntensityStatistics,
    Labels,
    LabelStatistics,
    MeanShape,
    SpacingStatistics,
    Statistics,
)
from mist_ops.analysis.shapes import MAX_SKELETON_VOXELS
from mist_ops.analysis.statistics import ANISOTROPIC_ABOVE, SIZES
from mist_ops.errors import counted, few

FEW_PATIENTS, MANY_PATIENTS = 50, 500
LOW_DENSITY = 0.2
SEVERE_IMBALANCE, MODERATE_IMBALANCE = 10.0, 3.0
RARE_PERCENT = 50.0
VERY_SPARSE_PERCENT, SPARSE_PERCENT = 1.0, 5.0
THIN_SKELETON = 0.05

_NONE = "\N{EM DASH}"


def observations(dump: Statistics) -> list[str]:
    """List findings on the dataset, then on the images, then on each label."""
    return [
        *_on_dataset(dump.dataset_summary),
        *_on_images(dump.image_statistics, dump.dataset_summary),
        *_on_balance(dump.label_statistics.class_imbalance),
        *_on_labels(dump.label_statistics.per_label),
        *_on_excluded(dump.dataset_summary),
    ]


def _on_dataset(summary: DatasetSummary) -> Iterator[str]:
    patients = summary.num_patients
    if patients < FEW_PATIENTS:
        yield f"Small dataset: {counted(patients, 'patient')}. Strong augmentation or pretrained weights may be needed."
    elif patients > MANY_PATIENTS:
        yield f"Large dataset: {counted(patients, 'patient')}. A larger network and longer training may pay off."
    if summary.num_channels > 1:
        yield f"Multiple channels: {summary.num_channels} ({', '.join(summary.channel_names)})."


def _on_images(images: ImageStatistics, summary: DatasetSummary) -> Iterator[str]:
    if images.spacing.is_anisotropic:
        ratio = images.spacing.anisotropy_ratio
        yield (
            f"Anisotropic spacing: the coarsest median spacing is {ratio:.2f} times the finest. "
            "Use a flat patch or a network with anisotropic kernels."
        )
    density = images.intensity.foreground_fraction.mean
    if density < LOW_DENSITY and sum(label != 0 for label in summary.labels) > 1:
        yield (
            f"Low foreground density: labels cover {density * 100:.2f} % of the image region on average, "
            "as is usual for small structures."
        )
    if summary.modality == "ct":
        for name, values in images.intensity.per_channel.items():
            yield (
                f"CT intensities of {name}: labeled voxels range from {values.p01:.0f} to {values.p99:.0f} HU "
                f"(1st to 99th percentile), mean {values.mean:.1f} ± {values.std:.1f} HU."
            )


def _on_balance(balance: ClassImbalance) -> Iterator[str]:
    ratio, minority = balance.imbalance_ratio, balance.minority_label
    if minority is not None and ratio > MODERATE_IMBALANCE:
        degree = "Severe" if ratio > SEVERE_IMBALANCE else "Moderate"
        yield (
            f"{degree} class imbalance: label {balance.dominant_label} has {ratio:.1f} times the voxels of "
            f"label {minority}."
        )


def _on_labels(labels: Mapping[int, LabelStatistics]) -> Iterator[str]:
    for rule in (_frequency, _loss, _sparsity, _shape, _too_coarse):
        for name, label in labels.items():
            finding = rule(label)
            if finding:
                yield f"Label {name} {finding}"


def _frequency(label: LabelStatistics) -> str:
    presence = label.presence_rate_pct
    if label.size_category == "tiny":
        share = label.mean_volume_fraction_of_foreground_pct
        return f"is very small: {share:.4f} % of the labeled voxels, in {presence:.1f} % of the patients."
    return f"is absent in {100 - presence:.1f} % of the patients." if presence < RARE_PERCENT else ""


def _loss(label: LabelStatistics) -> str:
    """Of labels that preprocessing removes, or reduces by more than half."""
    parts = [
        f"{what} in {counted(len(ids), 'patient')} ({few(ids)})"
        for what, ids in (
            ("is lost", label.lost_in_patients),
            ("loses more than half of its volume", label.reduced_in_patients),
        )
        if ids
    ]
    return f"{' and '.join(parts)} after cropping and resampling to the target spacing." if parts else ""


def _sparsity(label: LabelStatistics) -> str:
    share = label.mean_volume_fraction_of_image_pct
    if share >= SPARSE_PERCENT:
        return ""
    degree = "very sparse" if share < VERY_SPARSE_PERCENT else "sparse"
    return f"is {degree}: {share:.4f} % of the image region."


def _shape(label: LabelStatistics) -> str:
    shape = label.shape
    if shape.shape_class == "unknown":
        return ""
    shares = (
        f"linearity {_number(shape.linearity, 2)}, planarity {_number(shape.planarity, 2)}, "
        f"sphericity {_number(shape.sphericity, 2)}"
    )
    compactness = f"compactness {_number(shape.compactness, 3)}"
    skeleton = f"skeleton ratio {_number(shape.skeleton_ratio, 3)}"
    if _is_thin(shape):
        return f"is thin or branching ({shares}, {compactness}, {skeleton}); losses for thin structures may help."
    if shape.shape_class == "tubular":
        return f"is elongated ({shares}, {skeleton})."
    look = "sheet-like" if shape.shape_class == "planar" else "compact"
    return f"is {look} ({shares}, {compactness}, {skeleton})."


def _too_coarse(label: LabelStatistics) -> str:
    shape = label.shape
    flat = shape.skeleton_ratio is None and shape.shape_class in ("tubular", "planar")
    if label.size_category in ("tiny", "small") and (_is_thin(shape) or flat):
        return "is small and thin; check that the target spacing is fine enough."
    return ""


def _is_thin(shape: MeanShape) -> bool:
    return shape.skeleton_ratio is not None and shape.skeleton_ratio > THIN_SKELETON


def _on_excluded(summary: DatasetSummary) -> Iterator[str]:
    for case_id, reason in summary.excluded_patients.items():
        yield f"Patient {case_id} could not be measured and is excluded from all statistics: {reason}"


def markdown(dump: DataDump) -> str:
    """Render a data dump as Markdown, with a section to fill in."""
    sections = [
        _opening(dump.dataset_summary),
        _summary(dump.dataset_summary),
        _images(dump.image_statistics),
        _labels(dump.label_statistics),
        _DEFINITIONS,
        "## Observations\n\n"
        + _bullets(dump.observations or ["None."])
        + "\n\n<!-- Your remarks: which of these did you expect, and which not? -->",
        f"---\n\nConfiguration: `{dump.mist_config_path}`",
    ]
    return "\n\n".join(sections)


def _opening(summary: DatasetSummary) -> str:
    return f"""# Data dump: {summary.task}

> How to use this page: fill in the section on goals, check the observations at the end, and use it when you choose
> settings or ask for advice on them. All numbers are computed from the training data.

## Dataset Description and Goals

*To fill in: what the images show, what to segment, and what the segmentation is for.*

<!-- Useful details: scanner, protocol and body region; what each label means and who annotated it; known annotation
errors; which errors matter most (missed lesions, borders, volumes); limits on memory and time. -->"""


def _summary(summary: DatasetSummary) -> str:
    classes = [f"{name} ({_listed(labels)})" for name, labels in summary.final_classes.items()]
    lines = [
        f"Task: {summary.task}",
        f"Modality: {summary.modality}",
        f"Patients: {summary.num_patients}",
        f"Channels: {summary.num_channels} ({', '.join(summary.channel_names)})",
        f"Labels, including background: {summary.num_labels} ({_listed(summary.labels)})",
        f"Final classes: {', '.join(classes)}",
        f"Size on disk: {summary.dataset_size_gb} GB",
    ]
    return "## Dataset Summary\n\n" + _bullets(lines)


def _images(images: ImageStatistics) -> str:
    return "\n\n".join(
        [
            "## Image Statistics",
            _spacing(images.spacing),
            _dimensions(images.dimensions),
            _intensity(images.intensity),
        ]
    )


def _spacing(spacing: SpacingStatistics) -> str:
    rows = [
        [axis, values.mean, values.std, values.min, values.median, values.max]
        for axis, values in spacing.per_axis.items()
    ]
    kind = "anisotropic" if spacing.is_anisotropic else "isotropic"
    table = _table(["Axis", "Mean", "Std", "Min", "Median", "Max"], rows)
    return f"### Spacing (mm)\n\n{table}\n\nAnisotropy ratio: {spacing.anisotropy_ratio:.2f} ({kind})"


def _dimensions(dimensions: Dimensions) -> str:
    rows = [
        [
            axis,
            *(f"{number:.1f}" for number in (values.mean, values.std)),
            f"{values.min:.0f}",
            f"{values.median:.1f}",
            f"{values.max:.0f}",
        ]
        for axis, values in dimensions.original.per_axis.items()
    ]
    table = _table(["Axis", "Mean", "Std", "Min", "Median", "Max"], rows)
    resampled = " × ".join(str(voxels) for voxels in dimensions.resampled_median)
    return f"### Original Dimensions (voxels)\n\n{table}\n\nMedian dimensions after resampling: {resampled}"


def _intensity(intensity: IntensityStatistics) -> str:
    rows = [
        [
            name,
            f"{values.mean:.2f} ± {values.std:.2f}",
            *(f"{getattr(values, percentile):.2f}" for percentile in PERCENTILE_NAMES),
        ]
        for name, values in intensity.per_channel.items()
    ]
    table = _table(["Channel", "Mean ± std", *PERCENTILE_NAMES], rows)
    density = intensity.foreground_fraction
    return (
        f"### Intensity of Labeled Voxels\n\n{table}\n\n"
        f"Foreground density: {density.mean:.3f} ± {density.std:.3f} "
        f"({density.min:.3f} to {density.max:.3f})"
    )


def _labels(labels: Labels) -> str:
    heads = ["Label", "Voxels", "Presence (%)", "Of foreground (%)", "Of image (%)", "Size"]
    shapes = ["Shape", "Lin.", "Plan.", "Sph.", "IQ", "Skel."]
    per_label = _table([*heads, *shapes], [_label_row(name, label) for name, label in labels.per_label.items()])
    classes = _table(
        ["Class", "Labels", "Of foreground (%)", "Presence (%)", "Size"],
        [_class_row(name, found) for name, found in labels.final_classes.items()],
    )
    balance = labels.class_imbalance
    largest, smallest = balance.dominant_label, balance.minority_label
    return (
        f"## Label Statistics\n\n### Per-Label Summary\n\n{per_label}\n\n### Final Classes\n\n{classes}\n\n"
        f"Class imbalance: {balance.imbalance_ratio:.1f} (most frequent label: {largest}, least: {smallest})"
    )


def _label_row(label: int, found: LabelStatistics) -> list[str]:
    voxels, shape = found.voxel_count, found.shape
    return [
        str(label),
        f"{voxels.mean:.1f} ± {voxels.std:.1f}",
        f"{found.presence_rate_pct:.1f}",
        f"{found.mean_volume_fraction_of_foreground_pct:.4f}",
        f"{found.mean_volume_fraction_of_image_pct:.4f}",
        found.size_category,
        shape.shape_class,
        *(_number(share, 2) for share in (shape.linearity, shape.planarity, shape.sphericity)),
        *(_number(ratio, 3) for ratio in (shape.compactness, shape.skeleton_ratio)),
    ]


def _class_row(name: str, found: ClassStatistics) -> list[str]:
    share, presence = found.mean_volume_fraction_of_foreground_pct, found.presence_rate_pct
    return [name, _listed(found.constituent_labels), f"{share:.4f}", f"{presence:.1f}", found.size_category]


def _number(value: float | None, decimals: int) -> str:
    return _NONE if value is None else f"{value:.{decimals}f}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    # A bar in a name would start another column.
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


_DEFINITIONS = f"""## Metric Definitions

### Spacing

- Spacing and dimensions are along the files' own axes.
- **Anisotropy ratio**: the largest of the three median spacings divided by the smallest. Above {ANISOTROPIC_ABOVE:g},
  the dataset is called anisotropic; individual patients may differ.

### Dimensions

- **Median dimensions after resampling**: size of the preprocessed images, cropped if configured, at the target spacing,
  along canonical axes.

### Intensity

- Statistics are over all labeled voxels of all patients, equally weighted.
- Mean and standard deviation are exact. Percentiles are computed from values rounded to 16 significant bits: exact for
  integers up to 65536, and otherwise within one part in 65536.
- **Foreground density**: labeled voxels divided by the voxels of the image region. The image region is the whole image,
  or the foreground box if the configuration crops to it.

### Labels and Classes

- **Voxels**: mean and standard deviation over all patients; a patient without the label counts as 0.
- **Presence**: percentage of patients with at least one voxel.
- **Of foreground**, **of image**: mean count divided by the mean count of all labeled voxels, or of the voxels of the
  image region.
- **Size**, by share of the foreground: {", ".join(f"{name} below {below:g} %" for below, name in SIZES[:-1])}, else
  {SIZES[-1][1]}.
- **Class imbalance**: mean count of the most frequent label divided by that of the least frequent label that occurs.

### Shape Descriptors

Descriptors are computed from all voxels of a label in one patient, in mm, and averaged over the patients in which the
label has at least four voxels. v1 ≥ v2 ≥ v3 are the variances of the voxels along the principal axes.

- **Linearity** (v1 - v2) / v1: near 1 for a line or a vessel.
- **Planarity** (v2 - v3) / v1: near 1 for a disk or a sheet.
- **Sphericity** v3 / v1: near 1 for a ball or a cube.

The three add up to 1. The largest determines the shape: tubular, planar or blob.

- **IQ**, the isoperimetric quotient or compactness: 36 π V² / S³, with the volume V and the surface S of the voxels.
  Because S follows the voxel faces, it is π/6 = 0.524 for a cube, the maximum, and 8/27 = 0.296 for a ball of any
  resolution. Thin, rough and branching structures are near 0.
- **Skeleton ratio**: fraction of voxels on the skeleton (Lee's thinning). It is near 0 for thick structures and 1 for a
  line one voxel wide; above {THIN_SKELETON:g}, a structure is called thin or branching. Not computed above
  {MAX_SKELETON_VOXELS:,} voxels."""
