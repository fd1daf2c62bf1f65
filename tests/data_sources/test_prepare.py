"""Preparing a corpus: every document once, the same bytes every time, and nothing half done ever visible."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prepare_by_hand import config_of, content, prepared, sentence, write_texts
from pydantic import ValidationError

from dreamlm.core.errors import AllSourcesFailed, DataError, OutOfSpace, ResumeMismatch, UserMistake
from dreamlm.core.tokenizer import BytePair, Pretrained, Tokenizer
from dreamlm.data_sources import durable
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.preparation import tokenise
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.sources.text import TextFiles
from dreamlm.presets.schema import DataConfig

TEXTS = {"type": "jsonl", "paths": "texts"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with 120 documents in `texts`."""
    write_texts(tmp_path / "texts", files=2, documents=60)
    return tmp_path


class Recorder:
    """Remembers what a preparation tells."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.bytes: dict[str, int] = {}
        self.tokens = 0
        self.notices: list[str] = []

    def stage(self, name: str, total_bytes: int | None) -> None:
        self.stages.append((name, total_bytes))

    def advance(self, text_bytes: int, tokens: int = 0) -> None:
        name = self.stages[-1][0]
        self.bytes[name] = self.bytes.get(name, 0) + text_bytes
        self.tokens += tokens

    def notice(self, message: str) -> None:
        self.notices.append(message)


def documents(corpus: Corpus, split: str) -> list[str]:
    tokenizer = corpus.tokenizer()
    found = []
    for source in range(len(corpus.source_names)):
        for shard in corpus._shards(source, split):  # type: ignore[arg-type]
            arrays = corpus._open_shard(corpus.folder / shard.path)
            for start, length in zip(arrays.document_starts, arrays.document_lengths, strict=True):
                assert arrays.tokens[start] == tokenizer.end_of_document_id
                found.append(tokenizer.decode(arrays.tokens[start : start + length].tolist()))
    return found


def test_every_document_is_in_one_split_word_for_word(base: Path) -> None:
    corpus = prepared(config_of(TEXTS, validation_fraction=0.1), base / "corpus", base)
    lines = [line for path in (base / "texts").iterdir() for line in path.read_text().splitlines()]
    train, validation = documents(corpus, "train"), documents(corpus, "validation")
    assert sorted(train + validation) == sorted(json.loads(line)["text"] for line in lines)
    assert 3 < len(validation) < 30
    assert len(corpus.manifest.shards) > 4
    corpus.verify()


def test_the_manifest_counts_what_the_shards_hold(base: Path) -> None:
    corpus = prepared(config_of(TEXTS), base / "corpus", base)
    (source,) = corpus.manifest.sources
    found = documents(corpus, "train") + documents(corpus, "validation")
    assert source.documents == len(found) == 120
    assert source.text_bytes == sum(len(text.encode()) for text in found)
    assert source.tokens == sum(len(corpus.tokenizer().encode(text)) + 1 for text in found)


def test_the_number_of_processes_changes_no_byte(base: Path) -> None:
    prepared(config_of(TEXTS), base / "one", base, workers=1)
    prepared(config_of(TEXTS), base / "many", base, workers=3)
    assert content(base / "one") == content(base / "many")


def test_the_encoder_changes_no_byte(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gigatoken")
    recorder = Recorder()
    prepared(config_of(TEXTS), base / "fast", base, progress=recorder)
    assert any("gigatoken" in notice for notice in recorder.notices)
    monkeypatch.setattr(
        "dreamlm.data_sources.preparation.build.choose_encoder", lambda *_: ("tokenizers", "the test wants it")
    )
    prepared(config_of(TEXTS), base / "reference", base)
    assert content(base / "fast") == content(base / "reference")


def test_the_second_run_reads_the_manifest_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(config_of(TEXTS), base / "corpus", base)
    monkeypatch.setattr(TextFiles, "documents", lambda *_: pytest.fail("the sources were read again"))
    second = prepared(config_of(TEXTS), base / "corpus", base)
    assert second.fingerprint == first.fingerprint


def test_a_renamed_input_folder_changes_nothing(base: Path) -> None:
    prepared(config_of({**TEXTS, "name": "t"}), base / "corpus", base)
    (base / "texts").rename(base / "elsewhere")
    request = Preparation(
        config_of({**TEXTS, "name": "t", "paths": "elsewhere"}),
        BytePair(vocab_size=300, sample_bytes=20_000),
        base / "corpus",
        cache_folder=base / "cache",
        base_folder=base,
    )
    assert request.differences() == []


def test_the_component_that_changed_is_named(base: Path) -> None:
    prepared(config_of(TEXTS), base / "corpus", base)
    write_texts(base / "texts", files=1, documents=61)
    request = Preparation(
        config_of(TEXTS, validation_fraction=0.2),
        BytePair(vocab_size=301, sample_bytes=20_000),
        base / "corpus",
        cache_folder=base / "cache",
        base_folder=base,
    )
    components = [difference.component for difference in request.differences()]
    assert components == ["option validation_fraction", "source texts", "tokenizer"]
    assert "the corpus has 0.01, wanted is 0.2" in str(request.differences()[0])


def test_a_changed_input_gives_a_new_corpus_in_the_same_place(base: Path) -> None:
    old = prepared(config_of(TEXTS), base / "corpus", base)
    write_texts(base / "texts", files=1, documents=61, first=500)
    new = prepared(config_of(TEXTS), base / "corpus", base)
    assert new.fingerprint != old.fingerprint
    assert new.manifest.sources[0].documents == 121
    assert [path.name for path in base.iterdir() if "preparing" in path.name] == []


def test_exact_duplicates_are_dropped_and_counted(base: Path) -> None:
    write_texts(base / "again", files=1, documents=124)
    config = config_of(TEXTS, {"type": "jsonl", "paths": "again"})
    corpus = prepared(config, base / "corpus", base)
    assert [source.documents for source in corpus.manifest.sources] == [120, 4]
    assert corpus.manifest.sources[1].drops["document: exact duplicate"] == 120


def test_a_source_of_nothing_but_duplicates_is_left_out_for_good(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(base / "again", files=1, documents=60)
    config = config_of(TEXTS, {"type": "jsonl", "paths": "again"})
    corpus = prepared(config, base / "corpus", base)
    assert corpus.source_names == ("texts",)
    assert "already there" in str(corpus.manifest.sources[1].failure)
    monkeypatch.setattr(TextFiles, "documents", lambda *_: pytest.fail("the sources were read again"))
    assert prepared(config, base / "corpus", base).fingerprint == corpus.fingerprint


def test_duplicates_stay_when_they_are_wanted(base: Path) -> None:
    write_texts(base / "again", files=1, documents=60)
    config = config_of(TEXTS, {"type": "jsonl", "paths": "again"}, deduplicate=False)
    corpus = prepared(config, base / "corpus", base)
    assert [source.documents for source in corpus.manifest.sources] == [120, 60]


def test_one_failing_source_is_reported_and_left_out(base: Path) -> None:
    recorder = Recorder()
    config = config_of({"type": "text", "paths": "nowhere"}, TEXTS)
    corpus = prepared(config, base / "corpus", base, progress=recorder)
    assert corpus.source_names == ("texts",)
    assert corpus.failed_names == ("nowhere",)
    assert "no such file" in str(corpus.manifest.sources[0].failure)
    assert any("nowhere failed and is left out: no such file" in notice for notice in recorder.notices)


def test_a_source_that_came_back_is_taken_in(base: Path) -> None:
    config = config_of({"type": "jsonl", "paths": "late"}, TEXTS)
    assert prepared(config, base / "corpus", base).source_names == ("texts",)
    write_texts(base / "late", files=1, documents=20, first=1000)
    assert prepared(config, base / "corpus", base).source_names == ("late", "texts")


def test_a_source_that_went_away_keeps_its_prepared_documents(base: Path) -> None:
    first = prepared(config_of(TEXTS), base / "corpus", base)
    shutil.rmtree(base / "texts")
    recorder = Recorder()
    assert prepared(config_of(TEXTS), base / "corpus", base, progress=recorder).fingerprint == first.fingerprint
    assert any("texts cannot be looked at" in notice for notice in recorder.notices)


def test_when_all_sources_fail_nothing_is_written(base: Path) -> None:
    config = config_of({"type": "text", "paths": "nowhere"}, {"type": "jsonl", "paths": "nothing"})
    with pytest.raises(AllSourcesFailed) as caught:
        prepared(config, base / "corpus", base)
    assert [failure.source for failure in caught.value.failures] == ["nowhere", "nothing"]
    assert [path.name for path in base.iterdir() if not path.name.startswith(".")] == ["texts"]
    assert not any("preparing" in path.name for path in base.iterdir())


def test_a_source_that_fails_half_way_leaves_no_document_and_no_trace(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TextFiles.documents

    def breaking(self: TextFiles, report: object) -> Iterator[object]:
        for number, document in enumerate(whole(self, report)):  # type: ignore[arg-type]
            if self.name == "first" and number == 40:
                raise DataError("connection lost")
            yield document

    monkeypatch.setattr(TextFiles, "documents", breaking)
    corpus = prepared(config_of({**TEXTS, "name": "first"}, {**TEXTS, "name": "second"}), base / "corpus", base)
    assert corpus.manifest.sources[0].failure == "connection lost"
    assert corpus.manifest.sources[1].documents == 120


@pytest.fixture
def endless_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes text files look like a stream that may have no end."""
    build = TextFiles.__init__

    def endless(self: TextFiles, *arguments: object) -> None:
        build(self, *arguments)  # type: ignore[arg-type]
        self.bounded = False

    monkeypatch.setattr(TextFiles, "__init__", endless)


@pytest.mark.usefixtures("endless_texts")
def test_a_source_without_an_end_stops_at_the_limit(base: Path) -> None:
    with pytest.raises(UserMistake, match="has no end"):
        prepared(config_of(TEXTS), base / "corpus", base)
    limited = prepared(config_of(TEXTS), base / "corpus", base, stream_byte_limit=5000)
    assert 5000 <= limited.manifest.sources[0].text_bytes < 5500
    own_limit = prepared(config_of({**TEXTS, "max_bytes": 9000}), base / "corpus", base, stream_byte_limit=5000)
    assert 9000 <= own_limit.manifest.sources[0].text_bytes < 9500


def test_two_sources_of_one_name_are_refused(base: Path) -> None:
    with pytest.raises(UserMistake, match="two sources are called texts"):
        prepared(config_of(TEXTS, TEXTS), base / "corpus", base)


def test_a_folder_with_something_else_in_it_is_left_alone(base: Path) -> None:
    (base / "thesis").mkdir()
    (base / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserMistake, match="something else"):
        prepared(config_of(TEXTS), base / "thesis", base)
    assert content(base / "thesis") == {"chapter.txt": b"years of work"}


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": "{}", "model.safetensors": "weeks of training"},
        {"manifest.json": '{"images": 3}', "tokenizer.json": "{}"},
    ],
)
def test_a_folder_with_a_manifest_of_another_kind_is_left_alone(base: Path, files: dict[str, str]) -> None:
    (base / "snapshot").mkdir()
    for name, text in files.items():
        (base / "snapshot" / name).write_text(text)
    with pytest.raises(UserMistake, match="something else"):
        prepared(config_of(TEXTS), base / "snapshot", base)
    assert content(base / "snapshot") == {name: text.encode() for name, text in files.items()}


def test_too_little_space_is_found_before_anything_is_read(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "free_bytes", lambda folder: 1000)
    monkeypatch.setattr(TextFiles, "documents", lambda *_: pytest.fail("the sources were read"))
    with pytest.raises(OutOfSpace) as caught:
        prepared(config_of(TEXTS), base / "corpus", base)
    assert caught.value.free_bytes == 1000
    assert caught.value.where == str(base)
    assert caught.value.hint == "free some space, or choose another folder with --corpus DIR"
    assert not (base / "corpus").exists()


@pytest.mark.parametrize(
    ("number", "free", "said"),
    [
        (errno.ENOSPC, 1_000_000, "not enough disk space: 67.1 MB needed, 1.0 MB free"),
        (errno.ENOSPC, 9 * 10**9, "not enough disk space: No space left on device, though bytes are free"),
        (errno.EDQUOT, 9 * 10**9, "not enough disk space: Disk quota exceeded, though bytes are free"),
    ],
)
def test_a_disk_that_fills_up_says_so_and_leaves_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch, number: int, free: int, said: str
) -> None:
    def full(*_: object) -> None:
        monkeypatch.setattr(durable, "free_bytes", lambda folder: free)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tokenise, "write_shard", full)
    with pytest.raises(OutOfSpace, match=said):
        prepared(config_of(TEXTS), base / "corpus", base)
    assert sorted(path.name for path in base.iterdir()) == ["texts"]


def test_another_error_of_the_disk_is_not_called_full(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tokenise, "write_shard", broken)
    with pytest.raises(OSError, match="Input/output"):
        prepared(config_of(TEXTS), base / "corpus", base)


def test_progress_adds_up(base: Path) -> None:
    recorder = Recorder()
    corpus = prepared(config_of(TEXTS), base / "corpus", base, progress=recorder)
    text_bytes = corpus.manifest.sources[0].text_bytes
    assert recorder.stages[-1] == ("tokenise", text_bytes)
    assert recorder.bytes["tokenise"] == recorder.bytes["read sources"] == text_bytes
    assert recorder.tokens == corpus.manifest.sources[0].tokens


def test_a_single_document_is_not_held_out_and_the_user_is_told(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(" ".join(sentence(n) for n in range(9)))
    recorder = Recorder()
    corpus = prepared(config_of({"type": "text", "paths": "one.txt"}), tmp_path / "corpus", tmp_path, progress=recorder)
    assert any("no document was held out" in notice for notice in recorder.notices)
    with pytest.raises(DataError, match="no document was held out"):
        corpus.held_out(8)


def test_a_preparation_without_sources_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        config_of()


@pytest.mark.usefixtures("endless_texts")
def test_a_run_that_asks_for_more_keeps_the_part_of_a_stream_it_was_trained_on(base: Path) -> None:
    first = prepared(config_of(TEXTS), base / "corpus", base, stream_byte_limit=5000)

    def request(limit: int, vocabulary: int = 300) -> Preparation:
        tokenizer = BytePair(vocab_size=vocabulary, sample_bytes=20_000)
        folders = {"cache_folder": base / "cache", "base_folder": base}
        return Preparation(config_of(TEXTS), tokenizer, base / "corpus", stream_byte_limit=limit, **folders)

    kept = request(9000).run(trained_on=first.fingerprint)
    assert kept.fingerprint == first.fingerprint
    assert request(9000).run().manifest.sources[0].text_bytes >= 9000


def test_a_run_keeps_its_corpus_whatever_becomes_of_the_inputs(base: Path) -> None:
    first, recorder = prepared(config_of(TEXTS), base / "corpus", base), Recorder()
    write_texts(base / "texts", files=3, documents=50, first=1000)
    kept = prepared(config_of(TEXTS), base / "corpus", base, first.fingerprint, progress=recorder)
    assert kept.fingerprint == first.fingerprint
    (notice,) = recorder.notices
    assert notice.startswith("the run keeps its corpus: source texts: the corpus has ")
    shutil.rmtree(base / "texts")
    assert prepared(config_of(TEXTS), base / "corpus", base, first.fingerprint).fingerprint == first.fingerprint


def test_a_run_does_not_replace_another_ones_corpus(base: Path) -> None:
    """Neither where the inputs would make that corpus, nor where they would make the run's own."""
    mine = prepared(config_of(TEXTS), base / "mine", base).fingerprint
    other = config_of({**TEXTS, "max_documents": 40})
    files = content(prepared(other, base / "corpus", base).folder)
    for config in (other, config_of(TEXTS)):
        with pytest.raises(ResumeMismatch, match=f"trained on a corpus with fingerprint {mine[:12]}"):
            prepared(config, base / "corpus", base, mine)
        assert content(base / "corpus") == files
    assert prepared(config_of(TEXTS), base / "again", base, mine).fingerprint == mine
    with pytest.raises(ResumeMismatch):
        prepared(other, base / "third", base, mine)


def test_how_training_draws_from_a_corpus_is_no_part_of_its_key(base: Path) -> None:
    def key(**options: object) -> dict[str, str]:
        config = DataConfig.model_validate({"sources": [TEXTS], **options})
        folders = {"cache_folder": base / "cache", "base_folder": base}
        return Preparation(config, BytePair(vocab_size=300), base / "corpus", **folders).key()

    assert key() == key(packing="concat", mix_strategy="weighted", source_weights={"texts": 2.0})
    assert key() != key(min_text_length=51)


def test_why_a_source_failed_includes_what_helps(base: Path) -> None:
    (base / "empty").mkdir()
    with pytest.raises(AllSourcesFailed) as caught:
        prepared(config_of({"type": "text", "paths": "empty"}), base / "corpus", base)
    (failure,) = caught.value.failures
    assert failure.reason == f"no file found: {base / 'empty'} (empty); valid: *.txt, *.text, *.md, *.rst"


def test_where_there_is_no_corpus_the_explanation_is_a_sentence(base: Path) -> None:
    folders = {"cache_folder": base / "cache", "base_folder": base}
    (difference,) = Preparation(config_of(TEXTS), BytePair(vocab_size=300), base / "corpus", **folders).differences()
    assert str(difference) == "no corpus here; wanted is a complete corpus"


def test_a_corpus_outlives_the_folder_of_its_pretrained_tokenizer(base: Path) -> None:
    def again(folder: str, recorder: Recorder) -> Corpus:
        tokenizer = Pretrained(path=str(base / "tokenizer"))
        known = {"cache_folder": base / "cache", "base_folder": base, "progress": recorder}
        return Preparation(config_of(TEXTS), tokenizer, base / folder, **known).run()  # type: ignore[arg-type]

    Tokenizer.train(BytePair(vocab_size=300), [sentence(1)]).save(base / "tokenizer")
    built = again("corpus", Recorder())
    shutil.rmtree(base / "tokenizer")
    recorder = Recorder()
    assert again("corpus", recorder).fingerprint == built.fingerprint
    assert any("the corpus that is there is taken to be made with it" in notice for notice in recorder.notices)
    with pytest.raises(UserMistake, match="no tokenizer could be read"):
        again("another", Recorder())
    assert not (base / "another").exists()
