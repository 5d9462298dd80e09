"""Pictures of a calibration: reliability curves, and volumes with their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mist_ops.calibration.held_out import Probabilities, Volumes
from mist_ops.calibration.reliability import Curve
from mist_ops.errors import few
from mist_ops.pictures import Panel, Points, draw_panels
from mist_ops.pictures.canvas import LINES
from mist_ops.records.calibration import Calibration

_MOST_PANELS = 9


def draw_reliability(path: Path, calibration: Calibration) -> bytes:
    """Write a PNG of the curves before and after; return a thumbnail. There must be a scaling of probabilities."""
    assert calibration.probabilities
    return draw_panels(path, list(_curves(calibration.probabilities, calibration.labels))[:_MOST_PANELS])


def _curves(found: Probabilities, labels: tuple[int, ...]) -> Iterator[Panel]:
    yield _curve("Most probable class", found.before.top, found.after.top)
    for label, before, after in zip(labels, found.before.classes, found.after.classes, strict=True):
        if label:
            yield _curve(f"Label {label}", before, after)


def _curve(title: str, before: Curve, after: Curve) -> Panel:
    drawn = [
        Points(name, color, list(zip(curve.confidences, curve.accuracies, strict=True)), joined=True)
        for name, color, curve in (("before", LINES[1], before), ("after", LINES[0], after))
    ]
    return Panel(title, "stated probability", "share that is right", 0.0, 1.0, drawn)


def draw_volumes(path: Path, calibration: Calibration) -> bytes:
    """Write a PNG of the held-out volumes of each class with their intervals; return a thumbnail."""
    named = list(calibration.volumes.items())[:_MOST_PANELS]
    return draw_panels(path, [_volumes(name, volumes) for name, volumes in named])


def _volumes(name: str, volumes: Volumes) -> Panel:
    patients = list(volumes.patients.values())
    drawn = [
        Points(
            title,
            color,
            [(patient.predicted, patient.truth) for patient in chosen],
            [(patient.low, patient.high) for patient in chosen if patient.low is not None and patient.high is not None],
        )
        for title, color, chosen in (
            ("true volume inside the interval", LINES[0], [one for one in patients if one.inside is not False]),
            ("outside", LINES[1], [one for one in patients if one.inside is False]),
        )
    ]
    sizes = [size for patient in patients for size in (patient.truth, patient.predicted, patient.high or 0.0)]
    title = f"{name} (label{'' if len(volumes.labels) == 1 else 's'} {few(volumes.labels)})"
    return Panel(title, "predicted volume, ml", "true volume and its interval, ml", 0.0, max([*sizes, 0.001]), drawn)
