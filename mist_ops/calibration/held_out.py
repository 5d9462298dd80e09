"""The calibration of a study: fitted on all held-out patients, measured on each without its own fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mist_ops.calibration.conformal import Interval, interval
from mist_ops.calibration.fitting import FITS, cross_fit, groups, log_loss, simplest
from mist_ops.calibration.reliability import Curve, class_curve, top_curve
from mist_ops.calibration.scaling import Scaling
from mist_ops.calibration.voxels import Voxels


@dataclass(frozen=True)
class Patient:
    """A held-out patient.

    Attributes:
        voxels: A sample of its voxels; None if neither mask has a label.
        volumes: True and predicted volume of each class, in ml.
    """

    voxels: Voxels | None
    volumes: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Reliability:
    """How reliable probabilities are, over the held-out patients.

    Attributes:
        loss: Log loss, the mean over the patients.
        top: The curve of the most probable class.
        classes: The curve of each label.
    """

    loss: float
    top: Curve
    classes: tuple[Curve, ...]


@dataclass(frozen=True)
class Probabilities:
    """The calibration of probabilities.

    Attributes:
        kind: The kind of scaling; see ``FITS``.
        scaling: Fitted on all patients.
        losses: Log loss of each kind, of patients without a say in the fit.
        before: Of the probabilities as the networks state them.
        after: Of scaled ones, each patient by the scaling that was fitted without its fold.
    """

    kind: str
    scaling: Scaling
    losses: Mapping[str, float]
    before: Reliability
    after: Reliability


@dataclass(frozen=True)
class Volume:
    """Volumes of a held-out patient in ml, with the interval of the patients of other folds, if they are enough."""

    truth: float
    predicted: float
    low: float | None = None
    high: float | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the true volume is in the interval."""
        return None if self.low is None or self.high is None else bool(self.low <= self.truth <= self.high)


@dataclass(frozen=True)
class Volumes:
    """The calibration of the volume of a class.

    Attributes:
        labels: The labels of the class.
        interval: For new patients; None if there are too few held-out ones.
        patients: The held-out patients.
    """

    labels: tuple[int, ...]
    interval: Interval | None
    patients: Mapping[str, Volume]

    @property
    def covered(self) -> tuple[int, int]:
        """True volumes in their interval, and all that have one."""
        found = [volume.inside for volume in self.patients.values() if volume.inside is not None]
        return sum(found), len(found)


def calibrate_probabilities(patients: Mapping[str, Patient], folds: Mapping[str, int]) -> Probabilities | None:
    """Fit the scaling of probabilities that helps held-out patients most; None with fewer than two with labels."""
    voxels = {case_id: patient.voxels for case_id, patient in patients.items() if patient.voxels}
    if len(voxels) < 2:
        return None
    group_of = groups({case_id: folds[case_id] for case_id in voxels})
    fits = {kind: cross_fit(voxels, group_of, fit) for kind, fit in FITS.items()}
    kind = simplest(fits)
    scaled = {case_id: _scaled(some, fits[kind].scalings[group_of[case_id]]) for case_id, some in voxels.items()}
    before = _reliability(list(voxels.values()))
    return Probabilities(
        kind,
        FITS[kind](Voxels.joined(list(voxels.values()))),
        {"none": before.loss, **{name: found.loss for name, found in fits.items()}},
        before,
        _reliability(list(scaled.values())),
    )


def _scaled(voxels: Voxels, scaling: Scaling) -> Voxels:
    return replace(voxels, probabilities=scaling(voxels.probabilities))


def _reliability(patients: Sequence[Voxels]) -> Reliability:
    joined = Voxels.joined(patients)
    classes = tuple(class_curve(joined, index) for index in range(len(joined.probabilities)))
    return Reliability(log_loss(joined), top_curve(joined), classes)


def calibrate_volumes(
    patients: Mapping[str, Patient], folds: Mapping[str, int], classes: Mapping[str, Sequence[int]]
) -> dict[str, Volumes]:
    """Fit the intervals of the volumes of each class.

    Args:
        patients: The held-out patients.
        folds: The fold of each.
        classes: The labels of each class.
    """
    return {name: _volumes(patients, groups(folds), name, labels) for name, labels in classes.items()}


def _volumes(patients: Mapping[str, Patient], group_of: Mapping[str, int], name: str, labels: Sequence[int]) -> Volumes:
    pairs = {case_id: patient.volumes[name] for case_id, patient in patients.items()}
    of_others = {
        group: _interval([pair for case_id, pair in pairs.items() if group_of[case_id] != group])
        for group in {group_of[case_id] for case_id in pairs}
    }
    found = {}
    for case_id, (truth, predicted) in pairs.items():
        bounds = of_others[group_of[case_id]]
        low, high = bounds.around(predicted) if bounds else (None, None)
        found[case_id] = Volume(truth, predicted, low, high)
    return Volumes(tuple(labels), _interval(list(pairs.values())), found)


def _interval(pairs: Sequence[tuple[float, float]]) -> Interval | None:
    return interval([truth for truth, _ in pairs], [predicted for _, predicted in pairs])
