"""Keep the files of Dagster's history open while a process executes runs.

Dagster opens and closes SQLite for every event. Whoever closes a file last moves its journal into the file and waits
for the disk: half of what an event costs. While one more connection to the same file is open, nobody is the last.

A commit then waits for the disk only when a journal is moved, as SQLite advises for its journal mode (WAL). After a
loss of power the last events of a run may be missing, never torn; versions in stores do not depend on them.
"""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

_MAX_OPEN = 6
"""Files that stay open: the index, the runs, the schedules, and those of the latest runs, which have one each."""


@contextmanager
def open_history(folder: Path) -> Iterator[None]:
    """Keep every SQLite file below a folder open from its first use on, the latest few of them.

    Args:
        folder: Folder of a Dagster instance.
    """
    kept = _OpenFiles(folder.resolve())
    event.listen(Engine, "connect", kept.on_connect)
    try:
        yield
    finally:
        event.remove(Engine, "connect", kept.on_connect)
        kept.close()


class _OpenFiles:
    """Connections that do nothing but be open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, sqlite3.Connection] = OrderedDict()
        self._lock = threading.Lock()

    def on_connect(self, connection: Any, _record: Any) -> None:  # noqa: ANN401 - SQLAlchemy's own types
        """Prepare a connection that SQLAlchemy has just made, and keep its file open."""
        if not isinstance(connection, sqlite3.Connection):
            return  # PostgreSQL
        file = connection.execute("PRAGMA database_list").fetchone()[2]
        if not file or not Path(file).is_relative_to(self._folder):
            return
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            return  # just made: Dagster chooses the journal when it makes the tables
        connection.execute("PRAGMA synchronous=NORMAL")
        with self._lock:
            if file in self._open:
                self._open.move_to_end(file)
                return
            keeper = sqlite3.connect(file, check_same_thread=False)  # any thread may be the one that closes it
            keeper.execute("PRAGMA schema_version").fetchone()  # until it has read, it does not count as open
            self._open[file] = keeper
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)[1].close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
