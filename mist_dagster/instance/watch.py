"""The files that the definitions are made from: records and tables of the studies. A change reloads the definitions.

So every way to register, change or remove a study is seen by a running UI: the commands of any machine that shares the
home, runs, and edits by hand.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.studies import registered_studies
from mist_ops.files import stamp

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_MOST_SECONDS = 10.0
"""How long a page waits at most; a reload takes about three seconds on a quiet machine."""

Stamps = dict[str, list[int]]


class Watch:
    """Whether the definitions are current; create it before they are loaded for the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: Stamps = {}
        self._files: list[Path] = []
        self._loaded = self._now()

    def refresh(self, reload: Callable[[], object]) -> None:
        """Reload the definitions if they are not current, and return when they are.

        Args:
            reload: Reloads them; returns when they are loaded.
        """
        if self._now() == self._loaded:
            return
        with self._lock:
            now = self._now()
            if now != self._loaded:  # another thread may have reloaded them
                reload()
                self._loaded = now

    def _now(self) -> Stamps:
        records = dict(_stamps((dagster_home() / "studies").glob("*.yaml")))
        if records != self._records:
            studies = registered_studies()
            read = [(study.train_paths, study.test_paths, study.data) for study in studies]
            self._files = [path for paths in read for path in paths if path]
            self._records = records
        return {**records, **dict(_stamps(self._files))}


def _stamps(paths: Iterator[Path] | list[Path]) -> Iterator[tuple[str, list[int]]]:
    for path in paths:
        try:
            yield str(path), stamp(path)
        except OSError:  # it was removed meanwhile, or never was
            continue


class CurrentPages:
    """Make the definitions current before a page is served, so that a page always shows all studies."""

    def __init__(self, app: "ASGIApp", refresh: Callable[[], None]) -> None:
        self.app = app
        self.refresh = refresh

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, after a refresh if it is for a page and not for data of one."""
        if scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", ""):
            # A page shows by itself what is loaded later.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.to_thread(self.refresh)), _MOST_SECONDS)
        await self.app(scope, receive, send)
