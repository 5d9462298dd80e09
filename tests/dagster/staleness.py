"""Dagster's own view of what is stale, which the product does not need and tests compare with ours."""

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from mist_dagster.definitions import build_definitions
from mist_ops.study import Study

__all__ = ["StaleStatus", "staleness"]


def staleness(study: Study, records: dg.DagsterInstance) -> CachingStaleStatusResolver:
    """The resolver behind the UI's badges."""
    graph = build_definitions([study]).resolve_asset_graph()
    return CachingStaleStatusResolver(records, graph, LoadingContextForTest(records))
