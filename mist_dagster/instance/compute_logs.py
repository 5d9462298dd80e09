"""Compute logs that say where the log is, named in ``dagster.yaml``.

Every message is in the structured log of the run. Capturing standard output would start helper processes that Ctrl-C
also ends, so the tabs *stdout* and *stderr* have a note instead.
"""

from collections.abc import Sequence
from typing import Any

from mist_dagster.dagster_private import NoOpComputeLogManager

_NOTE = (
    b"Standard output is not captured: every message is in the structured log of the run, in the tab Events. "
    b"Output of libraries is in the terminal of mist_ui, or of the command.\n"
)


class ExplainedComputeLogs(NoOpComputeLogManager):
    """Captures nothing, and shows a note."""

    def get_log_data_for_type(
        self, log_key: Sequence[str], io_type: Any, offset: int, max_bytes: int | None
    ) -> tuple[bytes | None, int]:
        """Return the note, from an offset."""
        return _NOTE[offset:] or None, len(_NOTE)
