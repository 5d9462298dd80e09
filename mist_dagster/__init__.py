"""Orchestration with Dagster: which file depends on which, and when and with what settings it is made.

Nothing here computes.

No module of this package may have ``from __future__ import annotations``: Dagster reads the annotations of assets.
"""
