"""Prompts out of held-out documents: their own first words, from every source, always the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prepare_by_hand import config_of, prepared, sentence, write_texts

from dreamlm.core.errors import DataError
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.openings import held_out_openings

Make = Callable[..., Corpus]
SOURCES = {"left": 40, "right": 40}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def prepare(**sources: int) -> Corpus:
        first = 0
        for name, documents in sources.items():
            write_texts(tmp_path / name, files=1, documents=documents, first=first)
            first += documents
        named = [{"type": "jsonl", "name": name, "paths": name} for name in sources]
        return prepared(config_of(*named, validation_fraction=0.2), tmp_path / "corpus", tmp_path, workers=1)

    return prepare


def test_an_opening_is_the_first_words_of_a_held_out_document(make: Make) -> None:
    corpus = make(**SOURCES)
    beginnings = {" ".join(sentence(number).split()[:5]) for number in range(80)}
    found = held_out_openings(corpus, 5, 100)
    assert set(found) <= beginnings
    assert (
        len(found) == len(set(found)) == sum(len(part.shards[0].document_starts) for part in corpus.validation_parts())
    )


def test_sources_take_turns_and_the_order_never_changes(make: Make) -> None:
    corpus = make(**SOURCES)
    found = held_out_openings(corpus, 5, 6)
    assert [int(one.split(":")[0]) < 40 for one in found] == [True, False] * 3
    assert held_out_openings(Corpus.open(corpus.folder), 5, 4) == found[:4]


def test_documents_that_are_not_longer_are_passed_over(make: Make) -> None:
    corpus = make(**SOURCES)
    with pytest.raises(DataError, match="no held-out document has more than 500 words") as caught:
        held_out_openings(corpus, 500, 6)
    assert "--prompts FILE" in caught.value.hint
