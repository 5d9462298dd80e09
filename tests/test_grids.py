"""Images with random headers: what each command writes lies where ITK finds the scan, and scores stay the same."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imaging.headers import affine, itk_grid, nibabel_grid, rotation, stored, written_by_itk
from inference.settings import settings as small_settings
from torch import nn

from mist_ops.analysis.fingerprint import measure
from mist_ops.analysis.measures import measure_case
from mist_ops.config import EvaluationClass, StudyConfig, override
from mist_ops.conversion.csv import convert_csv
from mist_ops.conversion.msd import convert_msd
from mist_ops.conversion.nnunet import convert_nnunet
from mist_ops.dataset import Case, DatasetDescription
from mist_ops.ensembling.case import Predictions, combine_labels, combine_probabilities
from mist_ops.evaluation.score import score
from mist_ops.imaging.nifti import read_geometry
from mist_ops.inference.case import Predictor, predict_case
from mist_ops.postprocessing.case import Prediction, postprocess_case
from mist_ops.preprocessing.case import write_case
from mist_ops.records.arrays import read_record
from mist_ops.study import Study
from mist_ops.types import Size

IN_UNITS = {0: 1.0, 1: 1e-3, 2: 1.0, 3: 1e3}
"""Length of a millimeter in the unit of each code."""

METRICS = {"dice": {}, "haus95": {}, "avg_surf": {}, "surf_dice": {}, "volume_difference": {}, "lesion_wise_dice": {}}
CLASSES = {"one": EvaluationClass(labels=[1], metrics=METRICS), "all": EvaluationClass(labels=[1, 2], metrics=METRICS)}


@dataclass(frozen=True)
class Header:
    """How an image is stored.

    Attributes:
        size: In voxels.
        sform: From voxels to mm.
        qform: As well, possibly another grid.
        codes: Of both.
        units: Code of the unit of length.
        time: Code of the unit of time.
        dtype: Of the stored voxels.
        slope: Of the stored voxels; NaN for none.
        ending: Of the file.
    """

    size: Size
    sform: np.ndarray
    qform: np.ndarray
    codes: tuple[int, int]
    units: int
    time: int
    dtype: str
    slope: float
    ending: str

    def store(self, path: Path, values: np.ndarray) -> Path:
        """Write integers to a file, whose ending is added."""
        voxels = values if np.isnan(self.slope) else values / self.slope
        voxels = (voxels if "f" in self.dtype else np.rint(voxels)).astype(self.dtype)
        unit = np.diag([IN_UNITS[self.units]] * 3 + [1.0])
        fields = {"xyzt_units": self.units + self.time, "dim_info": 57}
        forms = (unit @ self.sform, unit @ self.qform)
        path = path.with_name(path.name + self.ending)
        return stored(path, voxels, *forms, self.codes, (self.slope, 0.0), **fields)


@st.composite
def headers(draw: st.DrawFn, ending: Sequence[str] = (".nii", ".nii.gz"), two_forms: bool = True) -> Header:
    """Any header that scanners and programs write."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def grid() -> np.ndarray:
        axes = rotation(generator) if draw(st.booleans()) else np.eye(3)[generator.permutation(3)]
        axes = axes * generator.choice([-1.0, 1.0], 3)
        return affine(axes, tuple(spacing), tuple(generator.uniform(-200, 200, 3)))

    spacing = generator.uniform(0.4, 5.0, 3).round(3)
    sform = grid()
    return Header(
        size=tuple(generator.integers(6, 13, 3).tolist()),
        sform=sform,
        qform=grid() if two_forms and draw(st.booleans()) else sform,
        codes=(draw(st.integers(0, 4)), draw(st.integers(0, 4))),
        units=draw(st.sampled_from(list(IN_UNITS))),
        time=draw(st.sampled_from([0, 8, 16, 24])),
        dtype=draw(st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"])),
        slope=draw(st.sampled_from([np.nan, 0.0, 1.0, 0.5, 0.1, 1 / 60])) or np.nan,
        ending=draw(st.sampled_from(list(ending))),
    )


def labels(size: Size, highest: int = 2, seed: int = 0) -> np.ndarray:
    """Blocks and single voxels of labels."""
    generator = np.random.default_rng(seed)
    found = np.zeros(size, dtype=np.int64)
    found[1:4, 1:5, 1:4] = 1
    found[3:6, 2:4, 2:5] = highest
    scattered = generator.random(size) < 0.03
    found[scattered] = generator.integers(1, highest + 1, size)[scattered]
    return found


def positions(path: Path) -> np.ndarray:
    """Label and physical position of each labeled voxel according to ITK, sorted."""
    image = SimpleITK.ReadImage(str(path))
    values = np.rint(SimpleITK.GetArrayFromImage(image).T).astype(int)
    found = [
        (float(values[index]), *image.TransformIndexToPhysicalPoint([int(along) for along in index]))
        for index in map(tuple, np.argwhere(values))
    ]
    return np.array(sorted(tuple(round(number, 3) for number in row) for row in found))


def assert_same_place(written: Path, scan: Path, expected: np.ndarray, header: Header) -> None:
    """Check that a mask lies where ITK finds the labels on the grid of the scan, and that nibabel agrees."""
    with tempfile.TemporaryDirectory() as folder:
        on_scan = replace(header, dtype="u1", slope=np.nan, ending=".nii").store(Path(folder) / "expected", expected)
        np.testing.assert_allclose(positions(written), positions(on_scan), atol=2e-3)
    np.testing.assert_allclose(nibabel_grid(written), nibabel_grid(scan), rtol=1e-6)
    ours, theirs = (nib.load(path).header for path in (written, scan))
    assert (ours["xyzt_units"], ours["dim_info"]) == (theirs["xyzt_units"], theirs["dim_info"])


@contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


many = settings(max_examples=30)


@many
@given(headers())
def test_postprocessing_keeps_the_place_of_labels(header: Header) -> None:
    with temporary() as folder:
        expected = labels(header.size)
        mask = header.store(folder / "p", expected)
        postprocess_case(Prediction("p", mask), (), folder / "out")
        assert_same_place(folder / "out" / "p.nii.gz", mask, expected, header)


@many
@given(headers(), headers())
def test_an_ensemble_keeps_the_place_of_labels_however_they_are_stored(header: Header, other: Header) -> None:
    with temporary() as folder:
        expected = labels(header.size)
        first = header.store(folder / "first", expected)
        similar = replace(header, dtype=other.dtype, slope=other.slope, units=other.units, ending=other.ending)
        files = (
            first,
            similar.store(folder / "second", expected),
            written_by_itk(first, folder / "third.nii.gz", expected.astype(np.uint8)),
        )
        combine_labels(Predictions("p", files), "majority_vote", folder / "out")
        assert_same_place(folder / "out" / "p.nii.gz", first, expected, header)


class Bright(nn.Module):
    """Class 1 where the image is bright."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(windows, 0.5), windows], dim=1)


def study_config(scan: Path) -> StudyConfig:
    """Settings under which nothing is resampled, only brought to canonical order."""
    changes: dict[str, object] = {
        "dataset_info.images": ["t1"],
        "dataset_info.labels": [0, 4],
        "model.params": {"in_channels": 1, "out_channels": 2},
        "spatial_config.patch_size": (16, 16, 16),
        "spatial_config.target_spacing": read_geometry(scan).canonical()[0].spacing,
        "training.amp": False,
        "inference.tta.strategy": "none",
    }
    return override(small_settings(), changes)


@settings(max_examples=15)
@given(headers())
def test_predictions_and_their_ensembles_lie_on_the_scan(header: Header) -> None:
    with temporary() as folder:
        bright = np.random.default_rng(0).random(header.size) < 0.3
        scan = header.store(folder / "t1", 2 * bright)
        mask = replace(header, dtype="u1", slope=np.nan).store(folder / "mask", 4 * bright)
        config, study = study_config(scan), Study("s", folder / "numpy", folder / "results")
        case, predictor = Case("p", {"t1": scan}, mask), Predictor([Bright()], config, torch.device("cpu"))
        write_case(study, case, config, None)
        for name, arrays in (("raw", None), ("arrays", study)):
            probabilities = folder / f"{name}_probabilities.nii.gz"
            predict_case(predictor, case, folder / f"{name}.nii.gz", arrays, probabilities=probabilities)
            assert_same_place(folder / f"{name}.nii.gz", scan, 4 * bright, header)
            np.testing.assert_allclose(itk_grid(probabilities), itk_grid(scan), atol=2e-3)
            np.testing.assert_allclose(nibabel_grid(probabilities), nibabel_grid(scan), rtol=1e-6)
        both = Predictions("p", (folder / "raw_probabilities.nii.gz", folder / "arrays_probabilities.nii.gz"))
        combine_probabilities(both, "mean", folder / "mean", [0, 4])
        assert_same_place(folder / "mean" / "p.nii.gz", scan, 4 * bright, header)


@many
@given(headers(two_forms=False))
def test_arrays_lie_where_itk_finds_the_mask(header: Header) -> None:
    codes = header.codes if any(header.codes) else (1, 0)  # without a code, ITK and nibabel read different grids
    header = replace(header, codes=codes)
    with temporary() as folder:
        scan = replace(header, dtype="f4", slope=np.nan).store(folder / "t1", labels(header.size, seed=1))
        mask = header.store(folder / "mask", 4 * (labels(header.size) > 0))
        config, study = study_config(scan), Study("s", folder / "numpy", folder / "results")
        write_case(study, Case("p", {"t1": scan}, mask), config, None)
        grid, classes = read_record(study, "p").preprocessed, np.load(study.label("p"))[..., 0]
        found = [
            (4.0, *(grid.lps_affine @ [*index, 1])[:3].round(3).tolist())
            for index in np.argwhere(classes == 1).tolist()
        ]
        np.testing.assert_allclose(np.array(sorted(found)), positions(mask), atol=5e-3)


@many
@given(headers(), st.sampled_from(["units", "voxels", "axes", "itk", "qform only"]))
def test_scores_do_not_depend_on_how_masks_are_stored(header: Header, how: str) -> None:
    with temporary() as folder:
        masks = labels(header.size), np.roll(labels(header.size, seed=1), 1, axis=2)
        plain = replace(header, dtype="u1", slope=np.nan, units=2)
        before = score(*(plain.store(folder / name, mask) for name, mask in zip("ab", masks, strict=True)), CLASSES)
        if how == "axes":
            masks = tuple(np.transpose(mask, (1, 2, 0)) for mask in masks)
            order = np.eye(4)[:, [1, 2, 0, 3]]
            plain = replace(
                plain, size=masks[0].shape, sform=plain.sform @ order, qform=plain.qform @ order, codes=(1, 1)
            )
            files = [plain.store(folder / name, mask) for name, mask in zip("cd", masks, strict=True)]
        elif how == "itk":
            files = [
                written_by_itk(folder / f"a{plain.ending}", folder / f"{name}.nii.gz", mask.astype(np.uint8))
                for name, mask in zip("cd", masks, strict=True)
            ]
        else:
            other = {
                "units": replace(plain, units=header.units),
                "voxels": replace(plain, dtype=header.dtype, slope=header.slope, ending=".nii.gz"),
                "qform only": replace(plain, codes=(0, 1)),
            }[how]
            files = [other.store(folder / name, mask) for name, mask in zip("cd", masks, strict=True)]
        assert score(*files, CLASSES) == pytest.approx(before, rel=1e-4)
        if how not in ("axes", "qform only"):  # also one of each
            assert score(folder / f"a{plain.ending}", files[1], CLASSES) == pytest.approx(before, rel=1e-4)


@many
@given(headers())
def test_the_analysis_measures_the_same_in_every_unit(header: Header) -> None:
    with temporary() as folder:
        expected = labels(header.size)
        description = DatasetDescription.model_validate(
            {"task": "t", "modality": "mr", "train-data": folder, "mask": ["m"], "images": {"t1": ["t"]}}
            | {"labels": [0, 1, 2]}
        )
        found = []
        for name, one in (("mm", replace(header, units=2)), ("other", header)):
            scan = replace(one, dtype="f4", slope=np.nan).store(folder / f"{name}_t1", 10 * labels(header.size, seed=1))
            case = Case("p", {"t1": scan}, one.store(folder / f"{name}_mask", expected))
            measured = measure(case, description)
            config = override(
                study_config(scan),
                {"dataset_info.labels": [0, 1, 2], "model.params": {"in_channels": 1, "out_channels": 3}},
            )
            found.append((measured.spacing, measure_case(case, config, {}), measured.box, measured.axes))
        (spacing, numbers, box, axes), (other_spacing, other_numbers, other_box, other_axes) = found
        assert other_spacing == pytest.approx(spacing, rel=1e-5)
        assert (other_box, other_axes) == (box, axes)
        for label, expected_label in numbers.labels.items():
            assert other_numbers.labels[label].voxels == expected_label.voxels
            assert other_numbers.labels[label].kept == pytest.approx(expected_label.kept, rel=1e-4)


@settings(max_examples=15)
@given(headers(), st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha", ".img"]))
def test_conversions_keep_the_place_of_labels(header: Header, ending: str) -> None:
    with temporary() as folder:
        expected = labels(header.size)
        scan = replace(header, dtype="i2", slope=np.nan, ending=".nii.gz").store(folder / "scan", 10 * expected)
        mask = header.store(folder / "mask", expected)
        if ending in (".nrrd", ".mha"):
            SimpleITK.WriteImage(SimpleITK.ReadImage(str(mask)), str(folder / f"mask{ending}"))
        elif ending == ".img":
            image = nib.load(mask)
            pair = nib.Nifti1Pair(image.dataobj.get_unscaled(), None, image.header)
            pair.header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)
            nib.save(pair, folder / "mask.img")
        given_mask = folder / f"mask{ending}" if (folder / f"mask{ending}").exists() else mask
        (folder / "train.csv").write_text(f"id,mask,t1\np,{given_mask.name},{scan.name}\n")
        [outcome] = convert_csv(folder / "train.csv", None, folder / "csv")
        assert outcome.error is None
        np.testing.assert_allclose(positions(folder / "csv/raw/train/p/mask.nii.gz"), positions(mask), atol=2e-3)
        nnunet(folder / "nnunet", scan, mask)
        [outcome] = convert_nnunet(folder / "nnunet", folder / "from_nnunet")
        assert outcome.error is None
        np.testing.assert_allclose(
            positions(folder / "from_nnunet/raw/train/p/mask.nii.gz"), positions(mask), atol=2e-3
        )
        # The mask of a format of ITK is on the grid that ITK reads from the scan, and is accepted on it.
        made = folder / "csv/raw/train/p"
        assert read_geometry(made / "t1.nii.gz").differences(read_geometry(made / "mask.nii.gz")) == []


def nnunet(folder: Path, scan: Path, mask: Path) -> None:
    """Write a dataset of nnU-Net with a patient."""
    ending = mask.name.removeprefix("mask")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    image = nib.load(scan)
    nib.save(image, folder / "imagesTr" / f"p_0000{ending}")
    (folder / "labelsTr" / f"p{ending}").write_bytes(mask.read_bytes())
    labels = {"background": 0, "a": 1, "b": 2}
    described = {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(described))


@many
@given(headers(ending=[".nii.gz"]))
def test_channels_split_from_one_file_lie_on_it(header: Header) -> None:
    with temporary() as folder:
        for part in ("imagesTr", "labelsTr"):
            (folder / "in" / part).mkdir(parents=True)
        expected = labels(header.size)
        channels = np.stack([expected, expected[::-1]], axis=-1)
        whole = header.store(folder / "in/imagesTr/p", channels)
        header.store(folder / "in/labelsTr/p", expected)
        files = {"image": "imagesTr/p.nii.gz", "label": "labelsTr/p.nii.gz"}
        described = {"name": "t", "modality": {"0": "a", "1": "b"}, "labels": {"0": "x", "1": "y", "2": "z"}}
        (folder / "in/dataset.json").write_text(json.dumps({**described, "training": [files]}))
        [outcome] = convert_msd(folder / "in", folder / "out")
        assert outcome.error is None
        for index, name in enumerate("ab"):
            made = folder / f"out/raw/train/p/{name}.nii.gz"
            assert_same_place(made, whole, channels[..., index], header)
