"""Paths of all files of a study. The only module that knows file names."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from mist_ops.errors import DatasetError
from mist_ops.files import read_object, write_json

# File names have at most 255 bytes; 35 are reserved for prefixes and suffixes of an id.
_MOST_BYTES = 220
_SHOWN = 40

_REPLICAS = "replicas"
"""Folder of the replicas of a study, in its results."""

_REPLICA = re.compile(r"seed_(0|[1-9][0-9]{0,9})")

_SAFE_ID = re.compile(r"[^\W_][\w.+@ -]{0,127}")


@lru_cache(maxsize=1 << 15)
def check_id(case_id: str, source: Path | None = None) -> str:
    """Return an id if it is safe as a part of a path.

    Args:
        case_id: The id.
        source: Folder or table that it comes from, for the error message.

    Raises:
        DatasetError: It is not safe.
    """
    # Some file systems store accents as separate characters.
    plain = unicodedata.normalize("NFC", case_id)
    if not _SAFE_ID.fullmatch(plain) or ".." in case_id or case_id[-1] in " ." or len(case_id.encode()) > _MOST_BYTES:
        shown = case_id if len(case_id) <= _SHOWN else f"{case_id[:_SHOWN]}…"
        raise DatasetError(
            f"{f'{source}: the' if source else 'The'} id {shown!r} cannot name a file. An id starts with a letter or "
            f"digit, followed by letters, digits, spaces or any of _ . + @ -, without '..', and has at most 128 "
            f"characters and {_MOST_BYTES} bytes of UTF-8. Rename the patient.",
            code="id-unsafe",
            file=source,
            found=case_id,
        )
    return case_id


@dataclass(frozen=True)
class Study:
    """A dataset.json and its two output folders: ``numpy`` (arrays) and ``results`` (everything else).

    A replica is the same study trained with another seed. It has its own models, predictions and scores, and shares
    dataset, analysis and arrays with the original, in whose results it is.

    ``data`` is None if the dataset.json is unknown, as for a copied results folder.
    """

    name: str
    numpy: Path
    results: Path
    data: Path | None = None

    @property
    def key(self) -> str:
        """The name as an identifier: letters, digits and underscores."""
        return re.sub(r"\W", "_", self.name, flags=re.ASCII)

    @cached_property
    def seed(self) -> int | None:
        """The seed of a replica; None for other studies."""
        found = _REPLICA.fullmatch(self.results.name) if self.results.parent.name == _REPLICAS else None
        return int(found[1]) if found else None

    @cached_property
    def original(self) -> Study | None:
        """The study that a replica repeats; None for other studies."""
        if self.seed is None:
            return None
        return replace(self, name=self.name.removesuffix(_suffix(self.seed)), results=self.results.parent.parent)

    def replica(self, seed: int) -> Study:
        """The replica with a seed, whether it exists or not."""
        return replace(self, name=f"{self.name}{_suffix(seed)}", results=self.results / _REPLICAS / f"seed_{seed}")

    @property
    def replicas(self) -> list[Study]:
        """The replicas that exist, by seed."""
        found = [_REPLICA.fullmatch(path.parent.name) for path in self.replicas_folder.glob("*/config.json")]
        return [self.replica(seed) for seed in sorted(int(match[1]) for match in found if match)]

    @property
    def replicas_folder(self) -> Path:
        """Folder of the replicas, a folder each."""
        return self.results / _REPLICAS

    @property
    def analysis(self) -> Path:
        """Folder of what the analysis wrote: for a replica, the results of the original."""
        return self.original.results if self.original else self.results

    @property
    def folders(self) -> list[Path]:
        """All folders that hold its files, whether they exist or not."""
        numpy = ("", "images", "labels", "dtms", "voxels", "geometry")
        predictions = ("", "train", "train/raw", "test", "calibrated", "calibrated/probabilities")
        records = ("records/train", "records/test")
        results = ("", "models", "checkpoints", "logs", "figures", "records", "postprocessing")
        return [
            *(self.numpy / name for name in numpy),
            *(self.results / name for name in results),
            *(self.results / "predictions" / name for name in (*predictions, *records)),
        ]

    @property
    def config(self) -> Path:
        """All settings of the study; of a replica, only those that differ from the original."""
        return self.results / "config.json"

    @property
    def fingerprint(self) -> Path:
        """Measurements of the analysis, and the settings derived from them."""
        return self.analysis / "fingerprint.json"

    @property
    def train_paths(self) -> Path:
        """Table of training cases: id, fold, mask, images."""
        return self.analysis / "train_paths.csv"

    @property
    def test_paths(self) -> Path:
        """Table of test cases: id, images. Absent if the dataset has none."""
        return self.analysis / "test_paths.csv"

    @property
    def fg_bboxes(self) -> Path:
        """Table of foreground boxes, in voxel indices of the files."""
        return self.analysis / "fg_bboxes.csv"

    @property
    def data_dump(self) -> Path:
        """Statistics of the training data; written on request, like ``data_dump_md``."""
        return self.analysis / "data_dump.json"

    @property
    def data_dump_md(self) -> Path:
        """The data dump as a Markdown report."""
        return self.analysis / "data_dump.md"

    @property
    def evaluation_paths(self) -> Path:
        """Table of pairs to evaluate: id, mask, prediction."""
        return self.results / "evaluation_paths.csv"

    @property
    def results_csv(self) -> Path:
        """Scores of the cross-validation predictions."""
        return self.results / "results.csv"

    @property
    def accepted_csv(self) -> Path:
        """Accepted scores, with which later ones are compared."""
        return self.results / "accepted.csv"

    @property
    def review_queue(self) -> Path:
        """Training patients whose mask may be wrong, the most suspicious first."""
        return self.results / "review_queue.csv"

    @property
    def label_queue(self) -> Path:
        """Test patients by how much the models of the folds disagree about them, those with most disagreement first."""
        return self.results / "label_queue.csv"

    @property
    def strategy(self) -> Path:
        """Postprocessing strategy chosen on the cross-validation predictions."""
        return self.results / "postprocessing" / "strategy.json"

    @property
    def strategy_search(self) -> Path:
        """Trials and scores of the search for that strategy."""
        return self.results / "postprocessing" / "search.json"

    @property
    def calibration(self) -> Path:
        """Calibration of probabilities and volumes, beside the folder of the models that it is for."""
        return self.results / "calibration.json"

    @property
    def calibrated_volumes(self) -> Path:
        """Volumes of the test cases with their intervals, beside the folder of their calibrated probabilities."""
        return self.results / "predictions" / "calibrated" / "volumes.csv"

    def calibrated_probabilities(self, case_id: str) -> Path:
        """Calibrated probabilities of a test case by the models of all folds."""
        return self.calibrated_volumes.parent / "probabilities" / f"{check_id(case_id)}.nii.gz"

    @property
    def kept(self) -> Path:
        """Stale artifacts that a person declared current."""
        return self.results / "records" / "kept.json"

    def inputs_record(self, stage: str) -> Path:
        """What the artifact of a stage was made from, for stages without a record of their own."""
        return self.results / "records" / f"{stage}.json"

    @property
    def arrays(self) -> Path:
        """Folder of the preprocessed channels."""
        return self.numpy / "images"

    def image(self, case_id: str) -> Path:
        """Preprocessed channels: float32 ``(x, y, z, channel)``."""
        return self.arrays / f"{check_id(case_id)}.npy"

    def label(self, case_id: str) -> Path:
        """Preprocessed class indices: uint8 ``(x, y, z, 1)``."""
        return self.numpy / f"labels/{check_id(case_id)}.npy"

    def dtm(self, case_id: str) -> Path:
        """Distance maps: float16 ``(x, y, z, class)``."""
        return self.numpy / f"dtms/{check_id(case_id)}.npy"

    def voxels(self, case_id: str) -> Path:
        """Some voxels of each class of a case, which training selects once."""
        return self.numpy / f"voxels/{check_id(case_id)}.npy"

    def geometry(self, case_id: str) -> Path:
        """Record of the arrays of a case: grids, crop, and hashes of the inputs."""
        return self.numpy / f"geometry/{check_id(case_id)}.json"

    @property
    def models(self) -> Path:
        """Folder of the weights, one file per fold."""
        return self.results / "models"

    def model(self, fold: int) -> Path:
        """Best weights of a fold: a plain state dict."""
        return self.models / f"fold_{fold}.pt"

    def passport(self, fold: int) -> Path:
        """Provenance and training curve of a fold's model."""
        return self.models / f"fold_{fold}.json"

    @property
    def guard(self) -> Path:
        """What the guard knows of the training patients. It is beside the weights that it belongs to."""
        return guard_beside(self.models)

    def checkpoint(self, fold: int) -> Path:
        """Everything needed to resume training of a fold."""
        return self.results / "checkpoints" / f"fold_{fold}_checkpoint.pt"

    def attempt(self, fold: int) -> Path:
        """Checkpoint of an unfinished training; it replaces ``checkpoint`` when the fold is done."""
        return self.results / "checkpoints" / f"fold_{fold}_attempt.pt"

    def attempt_progress(self, fold: int) -> Path:
        """How far an unfinished training is, in a file that is read without torch."""
        return self.attempt(fold).with_suffix(".json")

    @property
    def curves(self) -> Path:
        """Folder of the TensorBoard events, one folder per fold."""
        return self.results / "logs"

    def logs(self, fold: int) -> Path:
        """TensorBoard events of a fold."""
        return self.curves / f"fold_{fold}"

    def attempt_logs(self, fold: int) -> Path:
        """TensorBoard events of an unfinished training; they replace ``logs`` when the fold is done."""
        return self.curves / f"fold_{fold}_attempt"

    def attempt_epochs(self, fold: int) -> Path:
        """Epochs of an unfinished training, one a line, in a file that is read without torch while it grows."""
        return self.attempt_logs(fold) / "epochs.jsonl"

    def previous_epochs(self, fold: int) -> Path:
        """Epochs of the training whose model that of a fold replaced."""
        return self.logs(fold) / "previous.jsonl"

    @property
    def jobs(self) -> Path:
        """Folder of the jobs of a cluster, a folder for each run."""
        return self.results / "jobs"

    def job(self, run_id: str) -> Path:
        """Folder of the jobs that a run submitted."""
        return self.jobs / check_id(run_id)

    def job_lock(self, run_id: str) -> Path:
        """What a run with jobs locks, which outlives the process of the run."""
        return self.job(run_id) / "lock.json"

    @property
    def reviews(self) -> Path:
        """Comments of people on patients."""
        return self.results / "reviews.csv"

    @property
    def history(self) -> Path:
        """What people accepted, kept and judged, in order; only appended to."""
        return self.results / "history.jsonl"

    @property
    def evidence(self) -> Path:
        """Evidence pack of all models; written on request."""
        return self.results / "evidence.zip"

    @property
    def cv_predictions(self) -> Path:
        """Folder of the cross-validation predictions."""
        return self.results / "predictions" / "train" / "raw"

    def cv_prediction(self, case_id: str) -> Path:
        """Prediction of a training case by the model of the fold that holds it out."""
        return self.cv_predictions / f"{check_id(case_id)}.nii.gz"

    @property
    def test_predictions(self) -> Path:
        """Folder of the test predictions."""
        return self.results / "predictions" / "test"

    def test_prediction(self, case_id: str) -> Path:
        """Prediction of a test case by the models of all folds."""
        return self.test_predictions / f"{check_id(case_id)}.nii.gz"

    def prediction_record(self, part: str, case_id: str) -> Path:
        """Record of a prediction; ``part`` is train or test."""
        return self.results / f"predictions/records/{part}/{check_id(case_id)}.json"

    def figure(self, name: str) -> Path:
        """A figure."""
        return self.results / "figures" / f"{name}.png"

    def cv_figure(self, case_id: str) -> Path:
        """Figure of a training case with its prediction."""
        return self.figure(f"cv_{check_id(case_id)}")

    @property
    def patient_index(self) -> Path:
        """Page that lists the training cases, worst first."""
        return self.results / "figures" / "patients" / "index.html"

    def patient_page(self, case_id: str) -> Path:
        """Page of a training case."""
        # No id starts with an underscore, and some file systems ignore case.
        name = f"_{case_id}" if case_id.lower() == "index" else check_id(case_id)
        return self.patient_index.with_name(f"{name}.html")


def guard_beside(models: Path) -> Path:
    """What the guard knows, in the folder of the weights that it belongs to."""
    return models / "guard.json"


def guard_report(mask: Path) -> Path:
    """The report of the guard on the scan of a predicted mask, beside the mask."""
    return mask.with_name(f"{mask.name.removesuffix('.nii.gz')}.guard.json")


def _suffix(seed: int) -> str:
    return f"_seed_{seed}"


def analyzed_dataset(results: Path) -> str | None:
    """The path of dataset.json in fingerprint.json, by default relative to the results; None if unknown."""
    return _text(results / "fingerprint.json", "data")


def find_dataset(results: Path) -> Path | None:
    """The dataset.json of a study; None if it is missing.

    It is the one that fingerprint.json names relative to the results, as both may have been moved together; else, as in
    a copy of the results, the one at its absolute path on record.
    """
    data = analyzed_dataset(results)
    found = Path(os.path.normpath(results / data)) if data else None
    if found and found.is_file():
        return found
    recorded = recorded_dataset(results)
    return recorded if recorded and recorded.is_file() else None


def recorded_dataset(results: Path) -> Path | None:
    """The absolute path of dataset.json on record, where it may be no more; None if there is no record."""
    path = _text(_dataset_record(results), "data")
    return Path(path) if path else None


def record_dataset(results: Path, data: Path) -> None:
    """Record the absolute path of dataset.json, by which a copy of the results finds it."""
    write_json(_dataset_record(results), {"data": str(data.resolve())})


def _dataset_record(results: Path) -> Path:
    return Study("", results, results).inputs_record("dataset")


def _text(path: Path, key: str) -> str | None:
    try:
        value = read_object(path)[key]
    except (OSError, ValueError, KeyError):
        return None
    return value if isinstance(value, str) else None
