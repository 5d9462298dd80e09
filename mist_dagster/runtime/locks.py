"""Who works on a study: no two runs ever write the same of its files, or read what another is writing.

An analysis or a preprocessing has the study to itself. All else may go on side by side, but that a fold is trained by
one run alone, and predicts nobody meanwhile.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime

from mist_dagster.runtime.reservations import put, turn
from mist_ops.errors import MistError
from mist_ops.files import remove_leftovers
from mist_ops.study import Study
from mist_ops.types import Json


class BusyError(MistError):
    """Another run works on the study."""


@contextlib.contextmanager
def at_work(
    run_id: str,
    study: Study,
    doing: str,
    *,
    alone: bool = False,
    trains: Iterable[int] = (),
    uses: Iterable[int] = (),
) -> Iterator[None]:
    """Keep other runs from what this one is going to write, for as long as the block runs.

    Args:
        run_id: The run that works.
        study: On what.
        doing: In words that follow "is": "trained" or the like.
        alone: Whether nobody else may work on the study; what killed runs left half-written is then removed.
        trains: Folds whose weights are written.
        uses: Folds whose weights are read.

    Raises:
        BusyError: Another run is in the way; it is named.
    """
    claim = {
        "doing": doing,
        "alone": alone,
        "trains": sorted(trains),
        "uses": sorted(uses),
        "who": f"run {run_id[:8]}, process {os.getpid()} on {socket.gethostname()}",
        "since": datetime.now().astimezone().isoformat(" ", "minutes"),
    }
    folder = study.results / ".at_work"
    with ExitStack() as held:
        with turn(folder) as others:
            for other in others:
                if _in_the_way(claim, other):
                    raise BusyError(
                        f"The study in {study.results} is being {other['doing']} by another run ({other['who']}, since "
                        f"{other['since']}), so it cannot be {doing} now. Wait until that ends, or stop it."
                    )
            put(folder, claim, held)
        if alone:
            for place in (study.numpy, study.results):
                remove_leftovers(place)
        yield


def _in_the_way(mine: Json, other: Json) -> bool:
    folds = [
        set(one["trains"]) & {*another["trains"], *another["uses"]} for one, another in ((mine, other), (other, mine))
    ]
    return mine["alone"] or other["alone"] or any(folds)
