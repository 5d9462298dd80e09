"""The data dump in words: what stands out in its numbers, and all of it as Markdown.

Whatever is said of a formula here is what ``shapes``, ``intensities`` and ``statistics`` compute.
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

FEW_PATIENTS, MANY_PATIENTS = 50, 500
LOW_DENSITY = 0.2
SEVERE_IMBALANCE, MODERATE_IMBALANCE = 10.0, 3.0
RARE_PERCENT = 50.0
VERY_SPARSE_PERCENT, SPARSE_PERCENT = 1.0, 5.0
THIN_SKELETON = 0.05

_NONE = "\N{EM DASH}"


def observations(dump: Statistics) -> list[str]:
    """What stands out, as sentences: first the dataset, then the images, then each label."""
    return [
        *_of_the_dataset(dump.dataset_summary),
        *_of_the_images(dump.image_statistics, dump.dataset_summary),
        *_of_the_balance(dump.label_statistics.class_imbalance),
        *_of_the_labels(dump.label_statistics.per_label),
        *_of_the_excluded(dump.dataset_summary),
    ]


def _of_the_dataset(summary: DatasetSummary) -> Iterator[str]:
    patients = summary.num_patients
    if patients < FEW_PATIENTS:
        yield f"Small dataset: {patients} patients. Strong augmentation or pretrained weights may be needed."
    elif patients > MANY_PATIENTS:
        yield f"Large dataset: {patients} patients. A larger network and a longer training may pay off."
    if summary.num_channels > 1:
        yield f"Several channels: {summary.num_channels} ({', '.join(summary.channel_names)})."


def _of_the_images(images: ImageStatistics, summary: DatasetSummary) -> Iterator[str]:
    if images.spacing.is_anisotropic:
        ratio = images.spacing.anisotropy_ratio
        yield (
            f"Anisotropic spacing: the coarsest median spacing is {ratio:.2f} times the finest. "
            "A patch that is flat in voxels, or a network with anisotropic kernels, suits such images."
        )
    density = images.intensity.foreground_fraction.mean
    if density < LOW_DENSITY and sum(label != 0 for label in summary.labels) > 1:
        yield (
            f"Low foreground density: labels fill {density * 100:.2f} % of the image region on average. "
            "This is normal for small structures."
        )
    if summary.modality == "ct":
        for name, values in images.intensity.per_channel.items():
            yield (
                f"CT intensities of {name}: labelled voxels lie between {values.p01:.0f} and {values.p99:.0f} HU "
                f"(1st to 99th percentile), at {values.mean:.1f} ± {values.std:.1f} HU."
            )


def _of_the_balance(balance: ClassImbalance) -> Iterator[str]:
    ratio, minority = balance.imbalance_ratio, balance.minority_label
    if minority is not None and ratio > MODERATE_IMBALANCE:
        degree = "Severe" if ratio > SEVERE_IMBALANCE else "Moderate"
        yield (
            f"{degree} class imbalance: label {balance.dominant_label} has {ratio:.1f} times the voxels of "
            f"label {minority}."
        )


def _of_the_labels(labels: Mapping[int, LabelStatistics]) -> Iterator[str]:
    for rule in (_frequency, _sparsity, _shape, _too_coarse):
        for name, label in labels.items():
            said = rule(label)
            if said:
                yield f"Label {name} {said}"


def _frequency(label: LabelStatistics) -> str:
    presence = label.presence_rate_pct
    if label.size_category == "tiny":
        share = label.mean_volume_fraction_of_foreground_pct
        return f"is very small: {share:.4f} % of the labelled voxels, in {presence:.1f} % of the patients."
    return f"is absent in {100 - presence:.1f} % of the patients." if presence < RARE_PERCENT else ""


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
        return f"is thin or branching ({shares}, {compactness}, {skeleton}); losses of thin structures may help."
    if shape.shape_class == "tubular":
        return f"is elongated ({shares}, {skeleton})."
    look = "sheet-like" if shape.shape_class == "planar" else "compact"
    return f"is {look} ({shares}, {compactness}, {skeleton})."


def _too_coarse(label: LabelStatistics) -> str:
    shape = label.shape
    flat = shape.skeleton_ratio is None and shape.shape_class in ("tubular", "planar")
    if label.size_category in ("tiny", "small") and (_is_thin(shape) or flat):
        return "is small and thin: check that the target spacing is not too coarse for it."
    return ""


def _is_thin(shape: MeanShape) -> bool:
    return shape.skeleton_ratio is not None and shape.skeleton_ratio > THIN_SKELETON


def _of_the_excluded(summary: DatasetSummary) -> Iterator[str]:
    for case_id, reason in summary.excluded_patients.items():
        yield f"Patient {case_id} could not be measured and is in none of these numbers: {reason}"


def markdown(dump: DataDump) -> str:
    """The whole data dump for people, with room for what only they know."""
    sections = [
        _opening(dump.dataset_summary),
        _summary(dump.dataset_summary),
        _images(dump.image_statistics),
        _labels(dump.label_statistics),
        _DEFINITIONS,
        "## Observations\n\n"
        + _bullets(dump.observations or ["Nothing stands out."])
        + "\n\n<!-- Your own remarks: what of this was expected, and what was not? -->",
        f"---\n\nConfiguration: `{dump.mist_config_path}`",
    ]
    return "\n\n".join(sections)


def _opening(summary: DatasetSummary) -> str:
    return f"""# Data dump: {summary.task}

> How to use this page: fill in the section on goals, check the observations at the end, and read it before settings are
> chosen, or hand it to whoever advises on them. Every number comes from the training data and can be made again.

## Dataset Description and Goals

*To be written: what is shown, what is to be found, and what the result is for.*

<!-- Of help: scanner, protocol and body region; what each label means and who drew it; known errors of the labels;
which mistakes matter most (missed lesions, borders, volumes); limits on memory and on time. -->"""


def _summary(summary: DatasetSummary) -> str:
    classes = [f"{name} ({_listed(labels)})" for name, labels in summary.final_classes.items()]
    lines = [
        f"Task: {summary.task}",
        f"Modality: {summary.modality}",
        f"Patients: {summary.num_patients}",
        f"Channels: {summary.num_channels} ({', '.join(summary.channel_names)})",
        f"Labels, background included: {summary.num_labels} ({_listed(summary.labels)})",
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
        f"### Intensity of Labelled Voxels\n\n{table}\n\n"
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
    # A name with a bar would open another column.
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


_DEFINITIONS = f"""## Metric Definitions

### Spacing

- Spacings and dimensions are those of the files, along the files' own axes.
- **Anisotropy ratio**: the largest of the three median spacings divided by the smallest; above {ANISOTROPIC_ABOVE:g}
  the dataset counts as anisotropic. Single patients may differ from it.

### Dimensions

- **Median dimensions after resampling**: what preprocessing makes of the images, cropped if the configuration says so,
  at the target spacing, along canonical axes.

### Intensity

- All voxels of all patients that carry any label count, and each counts once.
- Mean and standard deviation are exact. Percentiles are those of the values rounded to 16 significant bits: exact for
  whole numbers up to 65536, and otherwise within one part in 65536.
- **Foreground density**: labelled voxels divided by the voxels of the image region. That is the whole image, or, where
  the configuration crops to the foreground, the box that is kept.

### Labels and Classes

- **Voxels**: mean and standard deviation over all patients; a patient without the label counts as 0.
- **Presence**: patients with at least one voxel of it.
- **Of foreground**, **of image**: its mean count divided by the mean count of all labelled voxels, or of the voxels of
  the image region.
- **Size**, by its share of the foreground: {", ".join(f"{name} below {below:g} %" for below, name in SIZES[:-1])}, else
  {SIZES[-1][1]}.
- **Class imbalance**: the mean count of the most frequent label divided by that of the least frequent, of those that
  occur at all.

### Shape Descriptors

All are taken of all voxels of a label in one patient, in mm, and averaged over the patients in which the label has at
least four voxels that are apart. With v1 ≥ v2 ≥ v3, the variances of the voxels along the principal axes:

- **Linearity** (v1 - v2) / v1: near 1 for a line or a vessel.
- **Planarity** (v2 - v3) / v1: near 1 for a disc or a sheet.
- **Sphericity** v3 / v1: near 1 for a ball, and for a cube.

The three add up to 1, and the largest names the shape: tubular, planar or blob.

- **IQ**, the isoperimetric quotient or compactness: 36 π V² / S³, with the volume V and the surface S of the voxels.
  As S follows the faces of the voxels, a cube has π/6 = 0.524 and a ball, however fine its voxels, 8/27 = 0.296;
  nothing has more than a cube. Thin, rough and branching structures come near 0.
- **Skeleton ratio**: voxels of the skeleton (Lee's thinning) divided by all. Thick structures come near 0, a line one
  voxel wide has 1; above {THIN_SKELETON:g} a structure counts as thin or branching. Not computed above
  {MAX_SKELETON_VOXELS:,} voxels."""
