"""Which documents were seen before: a set on disk, so that memory stays bounded however many there are."""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

CACHE_KIB = 16 * 1024


class SeenDocuments:
    """Digests of all documents so far, each with the source that brought it first. Lives only while preparing."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # Nothing here outlives the process, so nothing is ever rolled back or waited for.
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._database.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, source INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, digest: bytes, source: int) -> bool:
        """Remember a document; False when it was there already. Cost: logarithmic in the number of documents."""
        statement = "INSERT OR IGNORE INTO seen VALUES (?, ?)"
        return self._database.execute(statement, (digest, source)).rowcount == 1

    def forget(self, source: int) -> None:
        """Take back every document that this source brought, because the source failed."""
        self._database.execute("DELETE FROM seen WHERE source = ?", (source,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
