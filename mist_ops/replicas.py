"""Replicas of a study: the same data, folds and settings, trained with other seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mist_ops.config import ReplicaSeeds, read_config, write_replica
from mist_ops.errors import ConfigError, few
from mist_ops.study import Study


def replica_seeds(study: Study, seeds: Sequence[int]) -> list[int]:
    """Check the seeds of the runs of a study.

    Raises:
        ConfigError: The study is a replica itself, or a seed is given twice.
    """
    if study.original:
        raise ConfigError(
            f"{study.results} is a replica with seed {study.seed}. Give --seeds with the original: --results "
            f"{study.original.results}.",
            code="replica-of-replica",
            file=study.results,
            expected=study.original.results,
        )
    twice = [seed for seed, count in Counter(seeds).items() if count > 1]
    if twice:
        raise ConfigError(
            f"--seeds has {few(twice)} twice. Give each seed once.", code="seed-duplicate", field="--seeds", found=twice
        )
    return list(seeds)


def replicate(study: Study, seed: int, *, redraw: bool = False, overwrite: bool = False) -> Study:
    """Return the replica with a seed, and write its config.json if it is new or to be overwritten.

    Args:
        study: The original.
        seed: Seed of everything random in the training.
        redraw: Also draw other validation cases; the held-out cases of each fold are always those of the original.
        overwrite: Whether an existing replica gets a new config.json.
    """
    replica, training = study.replica(seed), read_config(study.config).training
    if overwrite or not replica.config.exists():
        replica.results.mkdir(parents=True, exist_ok=True)
        write_replica(
            replica.config, ReplicaSeeds(seed=seed, validation_seed=None if redraw else training.seed_of_validation)
        )
    return replica
