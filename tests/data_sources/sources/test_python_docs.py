"""Claims about the documentation that ships with Python."""

import sysconfig
from pathlib import Path

import pytest

from dreamlm.core.errors import DataError
from dreamlm.data_sources.sources.python_docs import PythonDocs, module_prose
from dreamlm.data_sources.sources.source import SourceContext, SourceReport

DOCS = PythonDocs.Config(type="python_docs")

MODULE = '''"""Tools for tea.

Pour before you drink.
"""

open("PROOF", "w").write("this module was executed")


class Pot:
    """Holds tea until somebody is thirsty. Never wash it with soap."""

    def pour(self, cup):
        """Fill the cup with tea, slowly. The cup may be None."""

    def _drip(self):
        """Private: what nobody should read about in the documentation."""

    def close(self):
        """Close it."""


if True:
    def boil(water):
        """Bring the water to one hundred degrees. It takes a while."""
'''


def small_library(folder: Path) -> Path:
    """A library of a few files, as the real one is laid out."""
    for name, text in {
        "tea.py": MODULE,
        "copy_of_tea.py": MODULE,
        "bare.py": "x = 1\n",
        "broken.py": "def (:\n",
        "test/test_tea.py": MODULE,
        "idlelib/tea.py": MODULE,
        "site-packages/tea.py": MODULE,
        "pydoc_data/topics.py": (
            "topics = {'b': 'The second topic\\n*****\\n\\nA text of some length.', 'a': 'The first topic has words.',"
            " 'c': 'The first topic has words.'}\nraise SystemExit\n"
        ),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_topics_come_first_then_modules_each_once(
    tmp_path: Path, context: SourceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = SourceReport("python_docs")
    library = small_library(tmp_path / "library")
    documents = list(PythonDocs(DOCS, context, library).documents(report))
    assert [document.input for document in documents] == [
        "pydoc_data/topics.py:a",
        "pydoc_data/topics.py:b",
        "copy_of_tea.py",
    ]
    assert documents[1].text == "The second topic\n\nA text of some length."
    assert documents[2].text == (
        "copy_of_tea\n\nTools for tea.\n\nPour before you drink.\n\n"
        "copy_of_tea.Pot\n\nHolds tea until somebody is thirsty. Never wash it with soap.\n\n"
        "copy_of_tea.Pot.pour\n\nFill the cup with tea, slowly. The cup may be None.\n\n"
        "copy_of_tea.boil\n\nBring the water to one hundred degrees. It takes a while."
    )
    assert report.drops == {
        "file: no docstrings of substance": 2,
        "file: not readable as Python": 1,
        "topic: repeated": 1,
    }


def test_no_module_is_executed(tmp_path: Path, context: SourceContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    library = small_library(tmp_path / "library")
    assert list(PythonDocs(DOCS, context, library).documents(SourceReport("python_docs")))
    assert not (tmp_path / "PROOF").exists()


def test_an_installation_without_topics_still_has_its_modules(tmp_path: Path, context: SourceContext) -> None:
    library = small_library(tmp_path / "library")
    (library / "pydoc_data" / "topics.py").unlink()
    report = SourceReport("python_docs")
    documents = list(PythonDocs(DOCS, context, library).documents(report))
    assert [document.input for document in documents] == ["copy_of_tea.py"]
    assert report.drops["file: not part of this Python installation"] == 1


def test_a_library_that_is_no_folder_is_an_error(tmp_path: Path, context: SourceContext) -> None:
    with pytest.raises(DataError, match="no folder"):
        list(PythonDocs(DOCS, context, tmp_path / "zip").documents(SourceReport("python_docs")))


def test_the_fingerprint_follows_the_bytes_of_the_library(tmp_path: Path, context: SourceContext) -> None:
    library = small_library(tmp_path / "library")
    before = PythonDocs(DOCS, context, library).fingerprint()
    assert PythonDocs(PythonDocs.Config(type="python_docs", name="other"), context, library).fingerprint() == before
    (library / "tea.py").write_text(MODULE + "\n# changed\n")
    assert PythonDocs(DOCS, context, library).fingerprint() != before


def test_the_real_library_reads_like_english(context: SourceContext) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    source = (library / "json" / "__init__.py").read_bytes()
    text = module_prose(source, "json", set())
    assert text.startswith("json\n\nJSON (JavaScript Object Notation)")
    assert "json.dumps\n\nSerialize ``obj`` to a JSON formatted ``str``." in text
    words = text.lower().split()
    assert sum(word in ("the", "a", "is", "to", "of", "be", "and") for word in words) > 0.1 * len(words)
    first = next(DOCS.build(context).documents(SourceReport("python_docs")))
    assert len(first.text) > 100
