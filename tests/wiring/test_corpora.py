"""The corpus of a preset: what an interruption leaves behind, and where the corpus lies."""

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from workplace import Workplace, write_text

from dreamlm.core.errors import ResumeMismatch
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.progress import Silence
from dreamlm.data_sources.sources import hub_stream, huggingface
from dreamlm.wiring.corpora import STOPPED, prepare_corpus
from dreamlm.wiring.places import corpus_folder


class Interrupting(Silence):
    """Raises an error when a stage begins."""

    def __init__(self, stage: str, error: BaseException) -> None:
        self.wanted, self.error = stage, error
        self.notices: list[str] = []

    def stage(self, name: str, total_bytes: int | None) -> None:
        if name == self.wanted:
            raise self.error

    def notice(self, message: str) -> None:
        self.notices.append(message)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["look at sources", "read sources", "tokenizer", "tokenise"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)], ids=["SIGINT", "SIGTERM"])
def test_an_interruption_says_what_it_leaves_and_leaves_just_that(
    place: Workplace, tmp_path: Path, stage: str, error: BaseException
) -> None:
    folder = tmp_path / "corpora" / "mine"
    before = content(prepare_corpus(place.preset(), Silence(), folder).folder)
    progress, changed = Interrupting(stage, error), place.preset("data.min_text_length=60")
    with pytest.raises(type(error)):
        prepare_corpus(changed, progress, folder)
    assert progress.notices[-1] == STOPPED
    assert content(folder) == before
    assert {path.name for path in folder.parent.iterdir()} == {"mine"}
    assert prepare_corpus(changed, Silence(), folder).manifest.key["option min_text_length"] == "60"


@pytest.fixture
def endless(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A preset whose only source has no end."""

    def stream(address: object) -> Any:
        return ({"text": f"document {number} with the words cat, dog, saw, the, a, and more"} for number in count())

    monkeypatch.setattr(huggingface, "open_hub_stream", stream)
    monkeypatch.setattr(huggingface, "commit_of", lambda dataset, revision: "1" * 40)
    monkeypatch.setattr(hub_stream, "RECORDS_PER_MARK", 10**9)  # a generator has no position to note
    path = place.folder / "small.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "data": {"sources": [{"type": "hf", "dataset": "some/web"}]}}))
    return place


def test_two_amounts_of_an_endless_stream_are_two_corpora(endless: Workplace) -> None:
    less, more = (prepare_corpus(endless.preset(f"train.train_tokens={n}"), Silence()) for n in (4000, 8000))
    assert less.folder != more.folder
    assert Corpus.open(less.folder).fingerprint == less.fingerprint != more.fingerprint


def test_a_run_that_asks_for_more_of_an_endless_stream_keeps_its_corpus(endless: Workplace) -> None:
    first = prepare_corpus(endless.preset("train.train_tokens=4000"), Silence())
    more = endless.preset("train.train_tokens=8000")
    assert corpus_folder(more) != first.folder
    assert corpus_folder(more, first.fingerprint) == first.folder
    assert prepare_corpus(more, Silence(), trained_on=first.fingerprint).fingerprint == first.fingerprint


def test_a_damaged_corpus_is_not_the_one_a_run_looks_for(endless: Workplace) -> None:
    preset = endless.preset()
    first = prepare_corpus(preset, Silence())
    (first.folder / "manifest.json").write_text("{")
    assert corpus_folder(preset, first.fingerprint) == corpus_folder(preset)


@pytest.mark.parametrize("limit", ["max_documents", "max_bytes"])
def test_where_every_source_has_an_end_the_amount_to_train_on_is_no_matter(endless: Workplace, limit: str) -> None:
    ended = f'data.sources=[{{"type": "hf", "dataset": "some/web", "{limit}": 100}}]'
    assert len({corpus_folder(endless.preset(ended, f"train.train_tokens={n}")) for n in (4000, 8000)}) == 1


def test_a_corpus_that_another_replaces_is_kept_for_the_runs_that_have_it(place: Workplace) -> None:
    preset, progress = place.preset(), Interrupting("never", SystemExit())
    first = prepare_corpus(preset, Silence())
    write_text(place.folder / "text.jsonl", documents=200, seed=1)
    second = prepare_corpus(preset, progress)
    assert second.folder == first.folder
    aside = corpus_folder(preset, first.fingerprint)
    assert aside == first.folder.with_name(f"{first.folder.name}-{first.fingerprint[:12]}")
    assert progress.notices[-1] == f"the corpus that was there is kept, for runs that go on with it: {aside}"
    for corpus in (first, second):
        assert prepare_corpus(preset, Silence(), trained_on=corpus.fingerprint).fingerprint == corpus.fingerprint


def test_a_corpus_that_is_gone_is_made_anew_beside_the_one_in_its_place(place: Workplace) -> None:
    preset = place.preset()
    first = prepare_corpus(preset, Silence())
    write_text(place.folder / "text.jsonl", documents=200, seed=1)
    second = prepare_corpus(preset, Silence())
    shutil.rmtree(corpus_folder(preset, first.fingerprint))
    with pytest.raises(ResumeMismatch, match=f"trained on a corpus with fingerprint {first.fingerprint[:12]}"):
        prepare_corpus(preset, Silence(), trained_on=first.fingerprint)
    assert [path.name for path in second.folder.parent.iterdir() if path.is_dir()] == [second.folder.name]
    write_text(place.folder / "text.jsonl", documents=200, seed=0)
    again = prepare_corpus(preset, Silence(), trained_on=first.fingerprint)
    assert again.fingerprint == first.fingerprint
    assert Corpus.open(second.folder).fingerprint == second.fingerprint


def test_a_damaged_corpus_is_replaced_by_no_other_one(place: Workplace) -> None:
    preset = place.preset()
    first = prepare_corpus(preset, Silence())
    damaged, *others = sorted((first.folder / shard.path) for shard in first.manifest.shards)
    damaged.write_bytes(b"")
    whole = {path: path.read_bytes() for path in others}
    write_text(place.folder / "text.jsonl", documents=200, seed=1)
    with pytest.raises(ResumeMismatch):
        prepare_corpus(preset, Silence(), trained_on=first.fingerprint)
    assert {path: path.read_bytes() for path in others} == whole
