"""Voxels whose true probabilities are known: labels are drawn from the softmax of their logits."""

from __future__ import annotations

import numpy as np

from mist_ops.calibration.voxels import Voxels


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def drawn(seed: int, count: int = 40_000, slopes: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Voxels:
    """Voxels of a model whose log-probabilities are those of the labels times ``slopes``, normalized again."""
    generator = np.random.default_rng(seed)
    true = softmax(generator.normal(0, 1.5, (3, count)) + np.array([[1.0], [0.0], [0.0]]))
    labels = (generator.random(count) > true.cumsum(axis=0)).sum(axis=0).clip(max=2)
    stated = softmax(np.log(true) * np.reshape(slopes, (3, 1)))
    return Voxels(stated.astype(np.float32), labels, np.ones(count))
