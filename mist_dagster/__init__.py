"""Orchestration: which file is made from which, when, and with what settings. Nothing here computes.

No module of this package may hold ``from __future__ import annotations``: Dagster reads the annotations of assets.
"""
