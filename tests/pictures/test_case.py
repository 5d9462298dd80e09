from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mist_ops.imaging.nifti import read_image, read_labels
from mist_ops.pictures import case_picture, label_names, thumbnail
from mist_ops.pictures.canvas import COLORS
from mist_ops.pictures.case import AXIAL, CORONAL, SAGITTAL

SIZE = (30, 40, 20)
ONE_MM = (1.0, 1.0, 1.0)


def anatomy() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, SIZE).astype(np.float32)


def box(label: int = 1, shift: int = 0) -> np.ndarray:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[5 + shift : 15 + shift, 10:25, 5:12] = label
    return labels


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def colored(png: bytes, color: str) -> np.ndarray:
    """Rows and columns of the pixels near a color."""
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return np.argwhere(np.abs(pixels(png) - wanted).max(axis=-1) < 40)


def test_planes_follow_the_radiological_convention() -> None:
    volume = np.zeros(SIZE, dtype=np.float32)
    volume[0, 0, -1] = 1  # right, anterior, superior
    for plane in (AXIAL, CORONAL, SAGITTAL):
        assert plane.cut(volume, (0, 0, SIZE[2] - 1))[0, 0] == 1
    assert AXIAL.cut(volume, (0, 0, 0)).shape == (SIZE[1], SIZE[0])


def test_a_label_on_the_right_is_outlined_on_the_left_of_a_thumbnail() -> None:
    png = thumbnail(anatomy(), box(), None, ONE_MM)
    columns = colored(png, COLORS[0])[:, 1] / pixels(png).shape[1]
    assert columns.size
    assert columns.min() == pytest.approx(5 / 30, abs=0.05)
    assert columns.max() == pytest.approx(15 / 30, abs=0.05)


@pytest.mark.parametrize("size", [SIZE, (300, 90, 4), (90, 300, 4), (3, 3, 3)])
def test_a_thumbnail_of_noise_is_128_pixels_high_and_at_most_10_kb(size: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).normal(size=size).astype(np.float32)
    png = thumbnail(noise, None, None, ONE_MM)
    assert len(png) <= 10_000
    assert pixels(png).shape[0] == 128


def test_the_aspect_ratio_follows_the_spacing() -> None:
    height, width, _ = pixels(thumbnail(anatomy(), box(), None, (2.0, 1.0, 1.0))).shape
    assert width / height == pytest.approx(30 * 2 / 40, abs=0.02)


@pytest.mark.parametrize(
    "truth, prediction", [(box(), box(shift=3)), (box(), None), (None, box(300 % 256)), (None, None)]
)
def test_a_case_is_drawn_with_and_without_truth_and_prediction(
    tmp_path: Path, truth: np.ndarray | None, prediction: np.ndarray | None
) -> None:
    path = tmp_path / "figures" / "a.png"
    case_picture(path, anatomy(), truth, prediction, (1.0, 1.0, 3.0), "case a", dice={"tumor": 0.5}, names={1: "tumor"})
    assert bool(colored(path.read_bytes(), COLORS[0]).size) == (truth is not None or prediction is not None)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_empty_masks_flat_images_and_a_hundred_labels_can_be_drawn(tmp_path: Path) -> None:
    many = np.arange(np.prod(SIZE)).reshape(SIZE).astype(np.uint16) % 100
    flat = np.zeros(SIZE, dtype=np.float32)
    case_picture(
        tmp_path / "many.png", flat, many, np.zeros_like(many), ONE_MM, "a", dice=dict.fromkeys("abcdefgh", 0.1)
    )
    case_picture(tmp_path / "full.png", flat, np.ones(SIZE, dtype=np.uint8), None, ONE_MM, "a")
    assert (tmp_path / "many.png").stat().st_size > 10_000


def test_a_real_hippocampus_shows_both_labels(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "Task04_Hippocampus"
    image, grid = read_image(folder / "imagesTr" / "hippocampus_001.nii.gz")
    labels, _ = read_labels(folder / "labelsTr" / "hippocampus_001.nii.gz")
    canonical, reorientation = grid.canonical()
    case_picture(
        tmp_path / "a.png", reorientation.apply(image), reorientation.apply(labels), None, canonical.spacing, "001"
    )
    drawn = (tmp_path / "a.png").read_bytes()
    assert colored(drawn, COLORS[0]).size
    assert colored(drawn, COLORS[1]).size


def test_the_slice_that_differs_most_is_added(tmp_path: Path) -> None:
    truth, prediction = box(), box()
    prediction[20:24, 30:34, 17] = 1
    widths = []
    for name, drawn in (("differs", prediction), ("agrees", truth)):
        case_picture(tmp_path / name, anatomy(), truth, drawn, ONE_MM, "case")
        with Image.open(tmp_path / name) as picture:
            widths.append(picture.width)
    assert widths[0] > 1.2 * widths[1]


def test_a_thumbnail_shows_the_worst_slice() -> None:
    image, truth, prediction = np.zeros(SIZE, dtype=np.float32), box(), box()
    image[: SIZE[0] // 2] = 1
    image[..., 18] = 1 - image[..., 18]  # the other half is bright in this slice only
    prediction[2:28, 2:38, 18] = 1
    for drawn, bright in ((truth, 0), (prediction, 1)):
        halves = np.array_split(pixels(thumbnail(image, truth, drawn, ONE_MM)).mean(axis=(0, 2)), 2)
        assert halves[bright].mean() > halves[1 - bright].mean() + 100


@pytest.mark.parametrize(
    "classes, names",
    [
        ({"anterior": [1], "posterior": [2]}, {1: "anterior", 2: "posterior"}),
        ({"lesion": [1, 2], "core": [2]}, {1: "lesion without core", 2: "core"}),
        ({"WT": [1, 2, 4], "TC": [1, 4], "ET": [4]}, {1: "TC without ET", 2: "WT without TC", 4: "ET"}),
        ({"kidney": [1, 2, 3], "tumor": [2], "cyst": [3]}, {1: "kidney without tumor, cyst", 2: "tumor", 3: "cyst"}),
        ({"both": [1, 2], "right": [2, 3]}, {}),
        ({}, {}),
    ],
)
def test_labels_are_named_after_the_smallest_class(classes: dict[str, list[int]], names: dict[int, str]) -> None:
    assert label_names(classes) == names


@pytest.mark.parametrize("darker, brighter", [(110, 130), (-30, -10)])
def test_a_small_lesion_outside_the_range_of_the_image_is_not_saturated(darker: int, brighter: int) -> None:
    image, lesion = np.zeros(SIZE, dtype=np.float32), np.zeros(SIZE, dtype=np.uint8)
    image[:, ::2] = 100
    lesion[10:18, 12:18, 10:12] = 1  # 0.4 % of the voxels
    image[10:14, 12:18, 10:12] = darker
    image[14:18, 12:18, 10:12] = brighter
    gray = pixels(thumbnail(image, lesion, None, ONE_MM)).mean(axis=-1)
    row, voxel = int(gray.shape[0] * 15 / SIZE[1]), gray.shape[1] / SIZE[0]
    assert gray[row, int(16 * voxel)] > gray[row, int(12 * voxel)] + 10
