"""Commands outside of studies, on any paths: an asset for each, with a partition for each output path.

A module holds the asset of the same name and its run config; ``record`` and ``conversion`` hold what they share.
Modules are loaded one by one, so that a ranking does not wait for what predicts.
"""

import importlib
from collections.abc import Sequence

import dagster as dg

from mist_dagster.stages import TOOLS


def tool_definitions(names: Sequence[str] = TOOLS) -> dg.Definitions:
    """The assets of tools, and a job for each."""
    return dg.Definitions(
        assets=[getattr(importlib.import_module(f"{__name__}.{name}"), name) for name in names],
        jobs=[
            dg.define_asset_job(name, selection=dg.AssetSelection.assets(dg.AssetKey(["tools", name])))
            for name in names
        ],
    )
