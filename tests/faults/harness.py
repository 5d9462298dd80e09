"""What a fault is, and what must hold whenever a command meets one.

A fault breaks one thing of a small real study. Then a real command is run, and ends with the status and the words that
the fault names; nothing else was lost or half-written, and once the thing is put right the same command does its work.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

from mist_dagster import cli
from mist_ops.files import file_hash
from mist_ops.study import Study

Arguments = Sequence[str | Path]

MOST_WORDS = 120
"""Of a sentence or two, with the paths in it."""

OF_RUNS = ("dagster_home", "logs", ".locks", "voxels")
"""Folders whose content changes with every run, or only caches what the arrays hold."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, and what it said on the terminal."""

    status: int
    said: str


@dataclass(frozen=True)
class Sandbox:
    """A folder with a study of its own: ``data``, ``numpy`` and ``results``, and a home for Dagster's records."""

    folder: Path
    terminal: pytest.CaptureFixture[str]

    @property
    def study(self) -> Study:
        """The study."""
        results, numpy = self.folder / "results", self.folder / "numpy"
        return Study("faults", numpy=numpy, results=results, data=self.folder / "data" / "dataset.json")

    def patient(self, number: int = 1) -> Path:
        """The folder of a training patient."""
        return self.folder / "data" / "train" / f"phantom_{number:03}"

    def image(self, number: int = 1, channel: str = "t1") -> Path:
        """An image of a training patient."""
        return self.patient(number) / f"{channel}.nii.gz"

    def mask(self, number: int = 1) -> Path:
        """The mask of a training patient."""
        return self.patient(number) / "mask.nii.gz"

    def prediction(self, number: int = 1) -> Path:
        """A prediction of a training patient, where the sandbox has such beside its data."""
        return self.folder / "data" / "predicted" / f"phantom_{number:03}.nii.gz"

    def run(self, command: str, *arguments: str | Path) -> Ended:
        """Run a command in this process; a refused flag ends it as it ends a process."""
        self.terminal.readouterr()
        try:
            status = getattr(cli, command)([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        spoken = self.terminal.readouterr()
        return Ended(status, spoken.out + spoken.err)

    def start(self, command: str, *arguments: str | Path) -> subprocess.Popen[str]:
        """Begin a command in a process of its own."""
        code = f"import sys; from mist_dagster import cli; sys.exit(cli.{command}(sys.argv[1:]))"
        words = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(words, cwd=self.folder, stderr=subprocess.PIPE, text=True)

    def files(self) -> dict[Path, str]:
        """The hash of every file, but for those that change with every run."""
        return {
            path: file_hash(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not set(OF_RUNS) & set(path.relative_to(self.folder).parts)
        }


@dataclass(frozen=True)
class Fault:
    """One thing that is broken, and how a command takes it.

    Attributes:
        key: Its name in the table of the reference.
        what: The fault in words.
        breaks: Breaks it; returns further arguments of the command, if there are any.
        says: What the output holds: the code of the error as ``[code]``, and the ids, files or values that it names. A
            sentence only where its wording is pinned on purpose.
        status: The exit status.
        others_done: Whether the work on the other patients is done nevertheless, told from the files of the study.
        again: Whether the same command does its work once what was broken is put back.
        touches: Whether files are written at all. Where none is, the command need not be run again.
    """

    key: str
    what: str
    breaks: Callable[[Sandbox], Arguments | None]
    says: str | tuple[str, ...]
    status: int = 1
    others_done: Callable[[Sandbox], bool] | None = None
    again: bool = True
    touches: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        """Everything that the output must hold."""
        return (self.says,) if isinstance(self.says, str) else self.says


def meets(sandbox: Sandbox, command: str, arguments: Arguments, fault: Fault) -> None:
    """Let a command meet a fault, and check what must hold of it."""
    sound, kept = sandbox.files(), _copies(sandbox)
    further = fault.breaks(sandbox) or ()
    broken = sandbox.files()
    ended = sandbox.run(command, *arguments, *further)
    assert ended.status == fault.status, ended.said
    shown = " ".join(ended.said.split())
    assert [part for part in fault.parts if part not in shown] == [], ended.said
    assert "Traceback" not in ended.said
    assert ended.status == 0 or len(_error(ended.said).split()) <= MOST_WORDS, ended.said
    after = sandbox.files()
    assert _nothing_is_lost(broken, after), "a file that was there is gone, or an input was written to"
    assert [path for path in after if ".tmp-" in str(path)] == []
    for path, content in after.items():
        if broken.get(path) != content:
            read_whole(path)
    if fault.others_done is not None:
        assert fault.others_done(sandbox)
    if not fault.touches:
        assert after == broken, "a file was written"
    elif fault.again:
        _put_back(sound, broken, kept)
        ended = sandbox.run(command, *arguments)
        assert ended.status == 0, ended.said


def _error(said: str) -> str:
    return said[said.find("Error:") :] if "Error:" in said else said


def _copies(sandbox: Sandbox) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in sandbox.files()}


def _nothing_is_lost(before: Mapping[Path, str], after: Mapping[Path, str]) -> bool:
    """Whether all that was there is there, and what a user made is as it was."""
    inputs = [path for path in before if "data" in path.parts]
    return all(after.get(path) == before[path] for path in inputs) and not _vanished(before, after)


def _vanished(before: Mapping[Path, str], after: Mapping[Path, str]) -> list[Path]:
    # Predictions and arrays that were made from something else go before they are made anew.
    made = ("numpy", "predictions", "figures", "models", "checkpoints")
    return [path for path in before if path not in after and not set(made) & set(path.parts)]


def _put_back(sound: Mapping[Path, str], broken: Mapping[Path, str], kept: Mapping[Path, bytes]) -> None:
    for path in broken.keys() - sound.keys():
        path.unlink(missing_ok=True)
    for path, content in sound.items():
        if broken.get(path) != content:
            if path.parent.is_symlink() or path.is_symlink():
                path.unlink()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(kept[path])


def read_whole(path: Path) -> None:
    """Read a file of any kind that the program writes; fails if it is cut short."""
    name = path.name
    if name.endswith((".nii.gz", ".nii")):
        np.asanyarray(nib.load(path).dataobj)
    elif name.endswith(".npy"):
        np.load(path, allow_pickle=False)
    elif name.endswith(".json"):
        json.loads(path.read_text(encoding="utf-8"))
    elif name.endswith(".csv"):
        widths = {len(row) for row in csv.reader(path.read_text(encoding="utf-8").splitlines())}
        assert len(widths) <= 1, path
    elif name.endswith(".pt"):
        torch.load(path, weights_only=True)


def cut_short(path: Path) -> None:
    """Leave the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit_json(path: Path, **values: object) -> None:
    """Change top-level keys of a JSON file; None removes one."""
    content = json.loads(path.read_text())
    kept = {name: value for name, value in {**content, **values}.items() if value is not None}
    path.write_text(json.dumps(kept))


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write an array as an image, by default on the grid of the file that is replaced."""
    nib.save(nib.Nifti1Image(voxels, nib.load(path).affine if affine is None else affine), path)


def voxels(path: Path) -> np.ndarray:
    """The voxels of an image."""
    return np.asanyarray(nib.load(path).dataobj)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def move_grid(path: Path, field: str) -> None:
    """Change the size, spacing, origin or direction of an image, and leave the rest of its grid as it is."""
    array, affine = voxels(path), nib.load(path).affine.copy()
    if field == "size":
        array = array[:-4]
    elif field == "spacing":
        affine[:3, :3] *= 1.5
    elif field == "origin":
        affine[0, 3] += 10.0
    else:
        affine[:3, 0] *= -1.0
    save(path, np.ascontiguousarray(array), affine)


def edit_header(path: Path, **fields: object) -> None:
    """Change fields of the header of an image, whatever becomes of it, and leave its voxels."""
    content = gzip.decompress(path.read_bytes())
    header = nib.Nifti1Header(content[: nib.Nifti1Header.sizeof_hdr], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.binaryblock + content[nib.Nifti1Header.sizeof_hdr :]))


def store_in_microns(*paths: Path) -> None:
    """State the grid of images in microns."""
    for path in paths:
        header = nib.load(path).header
        rows = {name: header[name] * np.array([1e3]) for name in ("srow_x", "srow_y", "srow_z")}
        offsets = {name: header[name] * 1e3 for name in ("qoffset_x", "qoffset_y", "qoffset_z")}
        pixdim = header["pixdim"] * np.array([1, 1e3, 1e3, 1e3, 1, 1, 1, 1])
        edit_header(path, xyzt_units=3, pixdim=pixdim, **rows, **offsets)


def store_with_slope(path: Path, slope: float) -> None:
    """Store the same values of an image with a slope."""
    save(path, np.rint(voxels(path) / slope).astype(np.uint8))
    edit_header(path, scl_slope=slope, scl_inter=0)


def seen_by_itk(mask: Path, *images: Path) -> None:
    """Move images by 20 mm in the form that ITK reads, and write the mask again as ITK does for the first of them."""
    for path in images:
        header = nib.load(path).header
        edit_header(path, sform_code=2, qform_code=1, qoffset_x=header["qoffset_x"] + 20)
    written = SimpleITK.ReadImage(str(mask))
    written.CopyInformation(SimpleITK.ReadImage(str(images[0])))
    SimpleITK.WriteImage(written, str(mask))


def fill(path: Path, text: str = "") -> None:
    """Put a text in the place of whatever a file holds."""
    path.write_text(text)


def edit_text(path: Path, change: Callable[[str], str], encoding: str = "utf-8") -> None:
    """Change the text of a file; ``encoding`` is that of the new one."""
    path.write_bytes(change(path.read_text(encoding="utf-8")).encode(encoding))


def edit_section(path: Path, section: str, **values: object) -> None:
    """Change keys of a section of a JSON file."""
    content = json.loads(path.read_text())
    content[section] |= values
    path.write_text(json.dumps(content))


def edit_rows(path: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    """Change the rows of a table."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = change(list(csv.DictReader(stream)))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def leave_what_mist_writes(sandbox: Sandbox) -> None:
    """Leave of an analyzed or preprocessed study what MIST 2.3 would have written."""
    config = json.loads(sandbox.study.config.read_text())
    config["mist_version"] = "2.3.0"
    new = [("preprocessing", "resampling"), ("training.augmentation", "flip_axes"), ("training.hardware", "compile")]
    for section, name in (*new, ("inference.tta", "flip_axes")):
        holder = config
        for part in section.split("."):
            holder = holder[part]
        del holder[name]
    sandbox.study.config.write_text(json.dumps(config))
    sandbox.study.fingerprint.unlink()
    for record in sandbox.study.numpy.glob("geometry/*"):
        record.unlink()


def set_folds(sandbox: Sandbox, **folds: int) -> None:
    """Put patients into other folds."""
    edit_rows(
        sandbox.study.train_paths,
        lambda rows: [{**row, "fold": str(folds.get(row["id"], row["fold"]))} for row in rows],
    )


@dataclass(frozen=True)
class Code:
    """What pickles to a call that creates a file."""

    creates: Path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.creates,)
