"""Retention of Dagster's records in SQLite: old events of patients and old runs are deleted after a run.

Dagster keeps every event of every run twice: in the file of the run, and the events of assets in the index, from which
it reads what is materialized, with which versions, and what is stale. Here the index keeps the newest event of each
partition, whatever its age, and everything of the latest ones. Files beside the artifacts, not these records, say what
an artifact was made from.

Each database is changed in one transaction, so a process that is killed leaves records that are complete, and the next
retention continues.
"""

import contextlib
import fcntl
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

KEPT_EVENTS = 5_000
KEPT_RUNS = 1_000
UNLIMITED = -1

_MATERIALIZED, _OBSERVED = "ASSET_MATERIALIZATION", "ASSET_OBSERVATION"
_PLANNED, _EVALUATED = "ASSET_MATERIALIZATION_PLANNED", "ASSET_CHECK_EVALUATION"
_RUNLESS = ""
"""Run of the events that belong to none, as Dagster stores it."""

_SECONDS_TO_WAIT = 30.0
"""For other processes that write."""

_FREE = 0.1
"""Part of a database that may be free before it is compacted."""

_logger = logging.getLogger("mist")


@dataclass(frozen=True)
class Retention:
    """What the records of a home keep.

    Attributes:
        home: The Dagster home.
        events: Latest events of the partitions of each asset and check that are kept; -1 for all. Of older ones, the
            newest of each partition is kept.
        runs: Latest runs that are kept; -1 for all. Of older ones, those with the newest event of something are kept.
    """

    home: Path
    events: int = KEPT_EVENTS
    runs: int = KEPT_RUNS

    def apply_soon(self) -> threading.Thread:
        """Apply the retention in a thread, for which the process waits when it ends."""
        thread = threading.Thread(target=self._try, name="retention")
        thread.start()
        return thread

    def _try(self) -> None:
        try:
            self.apply()
        except (sqlite3.Error, OSError) as error:
            _logger.info("Old records are still there (%s); they are deleted after a later run.", error)

    def apply(self) -> None:
        """Delete what is not kept; do nothing while another process of this machine does so.

        Raises:
            sqlite3.Error: A database cannot be written.
            OSError: A file cannot be opened.
        """
        history = self.home / "history"
        with _alone(self.home / ".retention.lock") as alone:
            if alone:
                with contextlib.closing(_open(history / "runs.db")) as runs:
                    with contextlib.closing(_open(history / "runs" / "index.db")) as index:
                        self._forget_events(runs, index)
                        if self.runs != UNLIMITED:
                            self._forget_runs(runs, index)
                        _shrink(index)
                    _shrink(runs)

    def _forget_events(self, runs: sqlite3.Connection, index: sqlite3.Connection) -> None:
        unfinished = "SELECT run_id FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
        # A run that starts later has only new events, which are kept.
        index.execute("CREATE TEMP TABLE unfinished (run_id TEXT PRIMARY KEY)")
        index.executemany("INSERT INTO unfinished VALUES (?)", runs.execute(unfinished))
        index.execute("CREATE TEMP TABLE old (id INTEGER PRIMARY KEY, run_id TEXT)")
        self._forget_planned(index)
        if self.events != UNLIMITED:
            self._forget_materialized(index)
            self._forget_evaluated(index)

    def _forget_planned(self, index: sqlite3.Connection) -> None:
        """Delete plans that were followed by what was planned, or by another plan, and copies of evaluations."""
        old = _choose(
            index,
            "SELECT id, run_id FROM event_logs AS old WHERE dagster_event_type = ? AND partition IS NOT NULL"
            f" AND {_FINISHED} AND EXISTS (SELECT 1 FROM event_logs AS new WHERE new.asset_key = old.asset_key"
            f" AND new.dagster_event_type IN ('{_MATERIALIZED}', '{_PLANNED}')"
            " AND new.partition = old.partition AND new.id > old.id)",
            (_PLANNED,),
        )
        made = (
            "SELECT asset_key, partition FROM event_logs"
            f" WHERE dagster_event_type = '{_MATERIALIZED}' AND partition IS NOT NULL"
        )
        planned = f"dagster_event_type = '{_PLANNED}' AND (asset_key, partition) IN ({made})"
        self._forget_in_files(old, planned)
        _delete_chosen(index)
        # The index has these a second time, in the table of checks, and nothing reads them here.
        _choose(
            index,
            f"SELECT id, run_id FROM event_logs WHERE dagster_event_type = ? AND {_FINISHED}"
            " AND id < (SELECT MAX(id) FROM event_logs)",
            (_EVALUATED,),
        )
        _delete_chosen(index)

    def _forget_materialized(self, index: sqlite3.Connection) -> None:
        counted = index.execute(
            "SELECT asset_key, dagster_event_type FROM event_logs WHERE asset_key IS NOT NULL AND partition IS NOT NULL"
            f" AND dagster_event_type IN ('{_MATERIALIZED}', '{_OBSERVED}')"
            " GROUP BY asset_key, dagster_event_type HAVING COUNT(*) > ?",
            (self.events,),
        )
        for asset, kind in counted.fetchall():
            first, since = index.execute(
                "SELECT id, timestamp FROM event_logs WHERE asset_key = ? AND dagster_event_type = ?"
                " AND partition IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?",
                (asset, kind, self.events - 1),
            ).fetchone()
            old = _choose(
                index,
                "SELECT id, run_id FROM event_logs AS old WHERE asset_key = ? AND dagster_event_type = ? AND id < ?"
                f" AND partition IS NOT NULL AND {_FINISHED} AND EXISTS (SELECT 1 FROM event_logs AS new"
                " WHERE new.asset_key = old.asset_key AND new.dagster_event_type = old.dagster_event_type"
                " AND new.partition = old.partition AND new.id > old.id)",
                (asset, kind, first),
            )
            of_asset = f"asset_key = ? AND partition IS NOT NULL AND dagster_event_type IN (?, '{_PLANNED}')"
            self._forget_in_files(old, f"{of_asset} AND timestamp < ?", (asset, kind, since))
            # Last, so that after a kill the runs are found again.
            _delete_chosen(index)

    def _forget_evaluated(self, index: sqlite3.Connection) -> None:
        counted = index.execute(
            "SELECT asset_key, check_name FROM asset_check_executions"
            " GROUP BY asset_key, check_name HAVING COUNT(*) > ?",
            (self.events,),
        )
        for asset, check in counted.fetchall():
            first, since = index.execute(
                "SELECT id, evaluation_event_timestamp FROM asset_check_executions WHERE asset_key = ?"
                " AND check_name = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
                (asset, check, self.events - 1),
            ).fetchone()
            superseded = (
                f"asset_key = ? AND check_name = ? AND id < ? AND {_FINISHED}"
                " AND EXISTS (SELECT 1 FROM asset_check_executions AS new WHERE new.asset_key = old.asset_key"
                " AND new.check_name = old.check_name AND new.partition IS old.partition AND new.id > old.id"
                " AND new.execution_status != 'PLANNED')"
            )
            old = _choose(
                index,
                "SELECT evaluation_event_storage_id, run_id FROM asset_check_executions AS old WHERE"
                f" evaluation_event_storage_id < (SELECT MAX(id) FROM event_logs) AND {superseded}",
                (asset, check, first),
            )
            self._forget_in_files(old, f"dagster_event_type = '{_EVALUATED}' AND timestamp < ?", (since,))
            forget = f"DELETE FROM asset_check_executions AS old WHERE {superseded}"
            _delete_chosen(index, (forget, (asset, check, first)))

    def _forget_in_files(self, runs: Sequence[str], where: str, values: Sequence[object] = ()) -> None:
        """Delete the events of partitions in the files of runs, and shrink these."""
        for run in runs:
            path = self._file(run)
            if path.exists():  # else a person deleted the run
                with contextlib.closing(_open(path)) as log:
                    log.execute(
                        f"DELETE FROM event_logs WHERE {where} AND id < (SELECT MAX(id) FROM event_logs)", values
                    )
                    _shrink(log)

    def _forget_runs(self, runs: sqlite3.Connection, index: sqlite3.Connection) -> None:
        """Delete runs but the latest, those under way, and those with the newest event of an asset or check."""
        ended = [
            run_id
            for run_id, status in runs.execute(
                "SELECT run_id, status FROM runs ORDER BY id DESC LIMIT -1 OFFSET ?", (self.runs,)
            )
            if status in ("SUCCESS", "FAILURE", "CANCELED")
        ]
        if not ended:
            return
        newest = (
            "SELECT run_id FROM event_logs WHERE id IN (SELECT MAX(id) FROM event_logs WHERE asset_key IS NOT NULL"
            " GROUP BY asset_key, dagster_event_type, partition)"
            " UNION SELECT run_id FROM asset_check_executions WHERE id IN (SELECT MAX(id) FROM asset_check_executions"
            " GROUP BY asset_key, check_name, partition, execution_status = 'PLANNED')"
            " UNION SELECT last_run_id FROM asset_keys"
        )
        kept = {run_id for (run_id,) in index.execute(newest)}
        # A retry resumes from the run that it repeats.
        kept |= {run_id for (run_id,) in runs.execute("SELECT DISTINCT value FROM run_tags WHERE key = ?", (_ROOT,))}
        for run_id in ended:
            if run_id not in kept:
                self._forget_run(run_id, runs, index)

    def _forget_run(self, run_id: str, runs: sqlite3.Connection, index: sqlite3.Connection) -> None:
        """Delete a run, last its row, so that after a kill it is found again."""
        path = self._file(run_id)
        for suffix in ("-wal", "-shm", ""):
            path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
        _choose(index, "SELECT id, run_id FROM event_logs WHERE run_id = ?", (run_id,))
        _delete_chosen(index, ("DELETE FROM asset_check_executions WHERE run_id = ?", (run_id,)))
        with _transaction(runs):
            for table in ("run_tags", "runs"):
                runs.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))

    def _file(self, run_id: str) -> Path:
        return self.home / "history" / "runs" / f"{run_id}.db"


_FINISHED = "run_id NOT IN (SELECT run_id FROM unfinished)"
_ROOT = "dagster/root_run_id"


def _choose(index: sqlite3.Connection, query: str, values: Sequence[object]) -> list[str]:
    """Remember events of the index that a query finds, by id and run; return their runs."""
    index.execute("DELETE FROM old")
    index.execute(f"INSERT OR IGNORE INTO old {query}", values)
    return [run for (run,) in index.execute("SELECT DISTINCT run_id FROM old")]


def _delete_chosen(index: sqlite3.Connection, *others: tuple[str, Sequence[object]]) -> None:
    """Delete the events that ``_choose`` found with their tags, and run other statements, in one transaction."""
    with _transaction(index):
        index.execute("DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM old)")
        index.execute("DELETE FROM event_logs WHERE id IN (SELECT id FROM old)")
        for statement, values in others:
            index.execute(statement, values)


def _open(path: Path) -> sqlite3.Connection:
    """Open an existing database, with a commit after each statement outside of a transaction."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_SECONDS_TO_WAIT, isolation_level=None)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _shrink(connection: sqlite3.Connection) -> None:
    """Return the space of deleted rows to the file system, if it is much."""
    (free,), (pages,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_count"))
    if free > _FREE * pages:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Yield whether no other process or thread of this home holds a lock, and hold it for the block."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
