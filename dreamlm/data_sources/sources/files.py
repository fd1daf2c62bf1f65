"""Local input files: found, named and hashed in an order that depends on content alone; opened through gzip or zstd."""

import glob
import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from dreamlm.core.errors import DataError
from dreamlm.core.home import expanded
from dreamlm.data_sources.retry import reason_of
from dreamlm.data_sources.sources.source import SourceReport
from dreamlm.data_sources.sources.zstd_frames import ZstdFrames

COMPRESSIONS = (".gz", ".zst")
MARKS = "*?["
"""What makes a path a pattern."""
_ESCAPED = re.compile(r"\[([*?[])\]")
"""How `glob.escape` writes a character that would begin a pattern."""


@dataclass(frozen=True)
class InputFile:
    """One file: where it is now, what reports call it, and the sha256 of its bytes as 64 hex digits."""

    path: Path
    name: str
    sha256: str

    @property
    def content(self) -> str:
        """What is read of it, in a word: its bytes, and the compression suffix by which they are unpacked."""
        suffix = self.path.suffix.lower()
        return self.sha256 + (suffix if suffix in COMPRESSIONS else "")


@dataclass(frozen=True)
class Listing:
    """What was found below the paths of a source."""

    files: tuple[InputFile, ...]
    """Sorted by content, so that renaming or moving files changes no order; equal contents stand once."""
    repeated: tuple[InputFile, ...]
    """Files whose content, read in the same way, stands in `files` under another name."""
    unreadable: tuple[tuple[str, str], ...]
    """Names of files and folders that could not be read, and why."""

    def report_problems(self, report: SourceReport) -> None:
        """Count the files that are not in `files`."""
        for file in self.repeated:
            report.drop("file: the same content as another file", file.name)
        for name, reason in self.unreadable:
            report.drop("file: cannot be read", f"{name} ({reason})")


def list_files(paths: Sequence[str], base_folder: Path, suffixes: Sequence[str] | None, where: str) -> Listing:
    """The files below the paths. A path is a file, a folder (searched with its subfolders) or a glob pattern.

    Of folders, only files with one of the suffixes count (a compression suffix may follow), all when there are none
    given; hidden ones never do.
    Raises: DataError when a path leads to no file.  Cost: reads every file once.
    """
    found: dict[Path, tuple[str, Path]] = {}
    unreadable: list[tuple[str, str]] = []
    for text in paths:
        for path, name in _below(base_folder, expanded(text), suffixes, where, unreadable):
            found.setdefault(path.resolve(), (name, path))
    by_content: dict[str, InputFile] = {}
    repeated: list[InputFile] = []
    for name, path in sorted(found.values()):
        try:
            with path.open("rb") as stream:
                file = InputFile(path, name, hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            unreadable.append((name, reason_of(error)))
            continue
        if file.content in by_content:
            repeated.append(file)
        else:
            by_content[file.content] = file
    files = tuple(by_content[content] for content in sorted(by_content))
    return Listing(files, tuple(repeated), tuple(unreadable))


def is_folder(path: Path) -> bool:
    """Whether there is a folder, and nothing forbids to know it."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_pattern(path: Path) -> bool:
    """Whether the path is written as a pattern, which may stand for one path all the same, as what is escaped does."""
    return any(mark in str(path) for mark in MARKS)


def pattern_below(folder: Path, pattern: Path) -> Path:
    """The pattern, made to start at a folder whose own name is none, whatever it looks like."""
    return Path(glob.escape(str(folder))) / pattern


def plain_suffix(name: str) -> str:
    """The suffix in lower case, the one before a compression suffix: `.jsonl` for `a.jsonl.gz`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def name_of_path(path: str, otherwise: str) -> str:
    """The last part of a path without its suffixes; for a pattern the last part that is none, or the other name."""
    plain = [
        _ESCAPED.sub(r"\1", part) for part in path.split("/") if part not in ("", ".", "..") and not _is_open(part)
    ]
    last = plain[-1] if plain else ""
    return last.split(".")[0] or otherwise


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, decompressed as its suffix says, as a buffered stream; memory stays bounded.

    Raises: OSError or EOFError on damaged content, when opening or reading.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        try:
            with gzip.open(path, "rb") as unpacked:
                yield cast(BinaryIO, unpacked)
        except zlib.error as error:
            raise OSError(f"damaged gzip data: {error}") from error
    elif suffix == ".zst":
        with path.open("rb") as packed:
            yield cast(BinaryIO, io.BufferedReader(ZstdFrames(packed), 1 << 20))
    else:
        with path.open("rb") as stream:
            yield stream


def _is_open(text: str) -> bool:
    """Whether a part of a pattern stands for several names: what `glob.escape` has escaped stands for itself."""
    return any(mark in _ESCAPED.sub("", text) for mark in MARKS)


def _below(
    base_folder: Path,
    wanted: Path,
    suffixes: Sequence[str] | None,
    where: str,
    unreadable: list[tuple[str, str]],
) -> Iterator[tuple[Path, str]]:
    """Every fitting file at or below a path, and its name relative to it; folders that cannot be read are noted."""
    path = (base_folder / wanted).absolute()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise DataError(f"cannot be read: {reason_of(error)}", where=where) from error
    if is_file:
        yield path, path.name
        return
    if is_folder:
        root, candidates = path, _files_of(path, unreadable)
    elif is_pattern(wanted):
        pattern = pattern_below(base_folder, wanted)
        fixed = next(parent for parent in pattern.parents if not _is_open(str(parent)))
        root = Path(_ESCAPED.sub(r"\1", str(fixed)))
        candidates = root.glob(str(pattern.relative_to(fixed)))
    else:
        raise DataError(f"no such file or folder: {path}", where=where)
    count = 0
    for candidate in candidates:
        name = candidate.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or not (suffixes is None or plain_suffix(candidate.name) in suffixes):
            continue
        try:
            is_file = candidate.is_file()
        except OSError as error:
            unreadable.append((name.as_posix(), reason_of(error)))
            continue
        if is_file:
            count += 1
            yield candidate.absolute(), name.as_posix()
    if count == 0:
        raise DataError(f"no file found: {path}", where=where, valid=[f"*{suffix}" for suffix in suffixes or ()])


def _files_of(folder: Path, unreadable: list[tuple[str, str]]) -> Iterator[Path]:
    """What a folder and its subfolders hold; links to folders are not followed."""

    def note(error: OSError) -> None:
        unreadable.append((Path(error.filename).relative_to(folder).as_posix(), reason_of(error)))

    for parent, _, names in os.walk(folder, onerror=note):
        yield from (Path(parent, name) for name in names)
