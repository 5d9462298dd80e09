"""What each prediction of a study was made with, in a small file of its own, and whether that still holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mist_ops.config import STEP_VERSIONS
from mist_ops.files import file_hash, read_object, stamp, write_json
from mist_ops.types import Json

NOT_ON_RECORD = "what it was made with is not on record"
"""Reason for which a prediction need not be out of date."""


@dataclass(frozen=True)
class Origin:
    """What a prediction is made with.

    Attributes:
        models: SHA-256 of the weights of each fold that takes part.
        settings: Digest of the settings of prediction.
        arrays: Hash of the patient's arrays; empty where its images are read instead.
        images: Those images, by channel.
    """

    models: Mapping[int, str]
    settings: str
    arrays: str = ""
    images: Mapping[str, Path] = field(default_factory=dict)


@contextmanager
def recording(record: Path, mask: Path, origin: Origin) -> Iterator[None]:
    """Note what a mask was made with, once the block has made it; mask and record of before are removed first."""
    for path in (record, mask):
        path.unlink(missing_ok=True)
    # Before they are read: images that change meanwhile make the prediction outdated.
    files = {name: path for name, path in origin.images.items() if path.is_file()}
    stamps, images = _stamps(files), {name: file_hash(path) for name, path in files.items()}
    yield
    content = {
        "models": {str(fold): weights for fold, weights in origin.models.items()},
        "settings": origin.settings,
        "version": STEP_VERSIONS["prediction"],
        "arrays": origin.arrays,
        "images": images,
        "mask": file_hash(mask),
        "stamps": {**stamps, "mask": stamp(mask)},
    }
    write_json(record, content)


def why_outdated(record: Path, mask: Path, origin: Origin) -> str | None:
    """Why a prediction is to be made again, such as "fold 0 was trained since"; None if it is current.

    Files are read only where their size or times are not those on record, which are then noted.

    Args:
        record: What is on record of it.
        mask: The prediction.
        origin: What it would be made with now.
    """
    if not mask.is_file():
        return "it is not predicted"
    try:
        known = read_object(record)
        return _why_outdated(known, record, mask, origin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return NOT_ON_RECORD


def read_models(record: Path) -> dict[int, str]:
    """SHA-256 of the weights that a prediction was made with, by fold; empty if that is not on record."""
    try:
        known = read_object(record)["models"]
        return {int(fold): str(weights) for fold, weights in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_mask_hash(record: Path) -> str | None:
    """SHA-256 of a mask, as noted when it was made; None if that is not on record."""
    try:
        return str(read_object(record)["mask"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _why_outdated(known: Json, record: Path, mask: Path, origin: Origin) -> str | None:
    models = {str(fold): weights for fold, weights in origin.models.items()}
    trained = [fold for fold in models if known["models"].get(fold) != models[fold]]
    if trained or known["models"].keys() != models.keys():
        return f"fold {', '.join(trained)} was trained since" if trained else "other folds predict it"
    if known["settings"] != origin.settings:
        return "the settings of prediction changed"
    if known["version"] != STEP_VERSIONS["prediction"]:
        return f"prediction is of version {STEP_VERSIONS['prediction']} now, and was of {known['version']}"
    if known["arrays"] != origin.arrays:
        return "its arrays changed"
    files = {name: path for name, path in origin.images.items() if path.is_file()}
    stamps = _stamps({**files, "mask": mask})
    read = {name: path for name, path in {**files, "mask": mask}.items() if known["stamps"].get(name) != stamps[name]}
    hashes = {**known["images"], "mask": known["mask"]}
    altered = [name for name, path in read.items() if hashes.get(name) != file_hash(path)]
    if altered or files.keys() != known["images"].keys():
        return "its mask was altered" if altered == ["mask"] else "an image changed since"
    if read:
        with suppress(OSError):  # a folder that may only be read is read in full each time
            write_json(record, {**known, "stamps": stamps})
    return None


def _stamps(files: Mapping[str, Path]) -> dict[str, list[int]]:
    return {name: stamp(path) for name, path in files.items()}
