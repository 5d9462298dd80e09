"""Stability of a ranking under bootstrap resampling of the patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mist_ops.ranking.ranks import Ranks

RESAMPLES = 1000


def stability_table(names: list[str], ranks: Ranks, seed: int, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Mean rank of each strategy with its interval, and the share of resamples in each place, best first.

    Patients are drawn with replacement (bootstrap); the interval covers 95 % of the resamples. Tied strategies share
    their places equally. Columns: ``strategy, average_rank, low, high, place_1, place_2, ...``.

    Efron, Tibshirani: An Introduction to the Bootstrap, 1993. Wiesenfarth et al., Scientific Reports 2021;11:2369.
    """
    sums, (_, patients, columns) = ranks.sum(axis=2), ranks.shape
    generator = np.random.default_rng(seed)
    # How often each patient is drawn. Sums of ranks are exact in floating point, so ties are kept.
    counts = generator.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    averages = sums @ counts.T / (patients * columns)
    low, high = np.percentile(averages, (2.5, 97.5), axis=1)
    table = pd.DataFrame({"strategy": names, "average_rank": ranks.mean(axis=(1, 2)), "low": low, "high": high})
    shares = _places(averages).mean(axis=2)
    for place in range(len(names)):
        table[f"place_{place + 1}"] = shares[:, place]
    return table.sort_values("average_rank", kind="stable").reset_index(drop=True)


def _places(averages: np.ndarray) -> np.ndarray:
    """Share of each strategy in each place, per resample: ``(strategy, place, resample)``."""
    rounded = pd.DataFrame(averages)
    first = rounded.rank(axis=0, method="min").to_numpy(dtype=int) - 1
    last = rounded.rank(axis=0, method="max").to_numpy(dtype=int) - 1
    places = np.arange(len(averages))[None, :, None]
    within = (places >= first[:, None]) & (places <= last[:, None])
    shares: np.ndarray = within / within.sum(axis=1, keepdims=True)
    return shares
