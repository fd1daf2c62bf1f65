"""What was read from each PDF, kept on disk by content: changing one file reads one file again."""

import gzip
import importlib.metadata
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import final

from dreamlm.data_sources.sources.pdf_process import Extraction, ReadLimits
from dreamlm.data_sources.sources.source import fingerprint_of

READER_VERSION = 2
"""Raise it when `pdf_worker.py` answers differently for the same file."""


def reader_versions() -> list[str]:
    """The versions that decide what comes out of a PDF."""
    return [str(READER_VERSION), importlib.metadata.version("pypdf")]


@final
class ExtractionCache:
    """One small file per PDF, named by the sha256 of its bytes, the reader's versions and the limits."""

    def __init__(self, folder: Path, limits: ReadLimits) -> None:
        self._folder = folder
        self._key = fingerprint_of(
            [*reader_versions(), limits.time_limit_seconds, limits.memory_limit_bytes],
        )[:16]

    def get(self, sha256: str) -> Extraction | None:
        """The extraction of the file with this content, or None when it has to be read (again)."""
        try:
            return Extraction.from_json(json.loads(gzip.decompress(self._path(sha256).read_bytes())))
        except (FileNotFoundError, EOFError, OSError, ValueError, TypeError, KeyError, zlib.error):
            return None  # absent, or damaged by a power cut: the file itself is the truth and is read again

    def put(self, sha256: str, extraction: Extraction) -> None:
        """Keep the extraction; never leaves a partial file under the final name."""
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(json.dumps(extraction.as_json()).encode("ascii"), compresslevel=3, mtime=0)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(packed)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / f"{sha256}-{self._key}.json.gz"
