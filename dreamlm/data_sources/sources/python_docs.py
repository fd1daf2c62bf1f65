"""The documentation that ships with Python: real English prose for the smallest presets, on any machine, offline.

Two parts, read as text and never imported or run: the language reference that `help()` shows (`pydoc_data/topics.py`),
one document per topic, and the docstrings of the standard library, one document per module.
"""

import ast
import hashlib
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, final

from dreamlm.core.errors import DataError
from dreamlm.core.types import Document
from dreamlm.data_sources.cleaning import CLEANING_VERSION
from dreamlm.data_sources.retry import reason_of
from dreamlm.data_sources.sources.admission import admitted, limited
from dreamlm.data_sources.sources.source import Source, SourceContext, SourceOptions, SourceReport, fingerprint_of

EXTRACTION_VERSION = 1
TOPICS = "pydoc_data/topics.py"
NOT_PROSE = frozenset(
    {
        "__phello__",
        "__hello__.py",
        "__pycache__",
        "ensurepip",
        "encodings",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idle_test",
        "turtledemo",
    }
)
"""Folders and files of the library that hold tests, tables, copies or programs instead of documented modules."""
SHORTEST_DOCSTRING = 40
"""Characters; what is shorter names a function again instead of explaining it."""
_SENTENCE = re.compile(r"[a-z)\"'`][.:](\s|\Z)")
_UNDERLINES = re.compile(r"^[ ]*[*=~^-]{3,}\n", re.MULTILINE)


@final
class PythonDocs(Source):
    """Topics of the language reference, then the modules of the standard library, each in alphabetical order."""

    class Config(SourceOptions):
        """The documentation that ships with Python; needs no network."""

        type: Literal["python_docs"]
        """Python's own documentation."""

        def default_name(self) -> str:
            """Always `python_docs`."""
            return "python_docs"

        def build(self, context: SourceContext) -> "PythonDocs":
            """The live source, on the library of the running interpreter."""
            return PythonDocs(self, context, Path(sysconfig.get_path("stdlib")))

    def __init__(self, config: Config, context: SourceContext, library: Path) -> None:
        self.name = config.source_name
        self.bounded = True
        self._config = config
        self._min_text_length = context.min_text_length
        self._library = library

    def fingerprint(self) -> str:
        """See `Source`: the bytes of the library's files, so another Python is another content."""
        contents = hashlib.sha256()
        for path in [self._library / TOPICS, *self._modules]:
            if path.is_file():
                contents.update(hashlib.sha256(path.read_bytes()).digest())
        return fingerprint_of(
            {
                "options": self._config.model_dump(mode="json", exclude={"name"}),
                "min_text_length": self._min_text_length,
                "versions": [CLEANING_VERSION, EXTRACTION_VERSION],
                "contents": contents.hexdigest(),
            }
        )

    def version(self) -> str:
        """See `Source`."""
        return ""

    def documents(self, report: SourceReport) -> Iterator[Document]:
        """See `Source`."""
        return limited(self._all(report), self._config, report, self.name)

    def _all(self, report: SourceReport) -> Iterator[Document]:
        seen: set[str] = set()
        for name, text in self._topics(report):
            if text in seen:
                report.drop("topic: repeated", name)
                continue
            seen.add(text)
            yield from admitted(_UNDERLINES.sub("", text), name, "topic", self._min_text_length, report)
        for path in self._modules:
            report.inputs += 1
            name = path.relative_to(self._library).as_posix()
            try:
                text = module_prose(path.read_bytes(), _module_name(name), seen)
            except (OSError, SyntaxError, ValueError, RecursionError) as error:
                report.drop("file: not readable as Python", f"{name} ({reason_of(error)})")
                continue
            if not text:
                report.drop("file: no docstrings of substance", name)
                continue
            yield from admitted(text, name, "module", self._min_text_length, report)

    def _topics(self, report: SourceReport) -> Iterator[tuple[str, str]]:
        """Names and texts of the topics; some distributions ship Python without them."""
        path = self._library / TOPICS
        if not path.is_file():
            report.drop("file: not part of this Python installation", TOPICS)
            return
        report.inputs += 1
        try:
            topics = _dictionary_of_strings(path.read_text(encoding="utf-8"), "topics")
        except (OSError, SyntaxError, ValueError) as error:
            report.drop("file: not readable as Python", f"{TOPICS} ({reason_of(error)})")
            return
        for topic in sorted(topics):
            yield f"{TOPICS}:{topic}", topics[topic]

    @cached_property
    def _modules(self) -> tuple[Path, ...]:
        if not self._library.is_dir():
            raise DataError(f"Python's library is no folder here: {self._library}", where=self.name)
        found = []
        for folder, subfolders, names in os.walk(self._library):
            subfolders[:] = [name for name in subfolders if name not in NOT_PROSE]  # never walks installed packages
            found += [Path(folder, name) for name in names if name.endswith(".py") and name not in NOT_PROSE]
        return tuple(sorted(found, key=lambda path: path.relative_to(self._library).parts))


def module_prose(source: bytes, module: str, seen: set[str]) -> str:
    """The docstrings of a module, its classes and functions in the order of the source, each under its dotted name.

    Docstrings that were `seen` before, or say too little, are left out; the others are added to `seen`.
    Raises: SyntaxError or ValueError when the source is no Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    sections: list[str] = []
    for name, docstring in _docstrings(tree, module):
        if docstring not in seen and (name == module or _says_something(docstring)):
            seen.add(docstring)
            sections.append(docstring if docstring.startswith(name) else f"{name}\n\n{docstring}")
    return _UNDERLINES.sub("", "\n\n".join(sections))


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Dotted names and docstrings, depth first; what is private by name is passed over."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not child.name.startswith("_") or child.name == "__init__":
                yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _docstrings(child, name)


def _says_something(docstring: str) -> bool:
    return len(docstring) >= SHORTEST_DOCSTRING and _SENTENCE.search(docstring) is not None


def _dictionary_of_strings(source: str, variable: str) -> dict[str, str]:
    """The literal dictionary that a module assigns to a variable. Raises: ValueError when it does not."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Dict):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
                found = ast.literal_eval(statement.value)
                return {str(key): str(value) for key, value in found.items()}
    raise ValueError(f"assigns no dictionary to {variable}")


def _module_name(file: str) -> str:
    """The dotted name of `json/__init__.py` is `json`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
