"""Plot of a ranking."""

from __future__ import annotations

from pathlib import Path

from mist_ops.pictures import RankedStrategy, ranking_plot
from mist_ops.ranking.rank import Ranking


def draw_ranking(ranking: Ranking, path: Path) -> bytes:
    """Write the plot of a ranking; return its thumbnail."""
    rows = ranking.stability[["strategy", "average_rank", "low", "high"]].itertuples(index=False)
    strategies = [RankedStrategy(str(name), float(rank), float(low), float(high)) for name, rank, low, high in rows]
    return ranking_plot(path, strategies, ranking.facts["patients"])
