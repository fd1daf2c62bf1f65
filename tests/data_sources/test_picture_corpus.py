"""A corpus with pictures: every pair once, the same bytes every time, and only for a model that takes them so."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pictures_by_hand
import pytest
from pictures_by_hand import FORM, PICTURES, corpus_of, main, plain, write_folder
from prepare_by_hand import content, sentence

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.tokenizer import BytePair
from dreamlm.core.types import ImageForm
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.images.picture import open_picture
from dreamlm.data_sources.manifest import Split
from dreamlm.data_sources.openings import held_out_openings
from dreamlm.data_sources.preparation import draw
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.shards import open_shard

COUNT = 60


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with 60 captioned pictures in `pictures`."""
    write_folder(tmp_path / "pictures", {f"{number}.png": sentence(number) for number in range(COUNT)})
    return tmp_path


def pairs(corpus: Corpus) -> dict[str, bytes]:
    """The pixels by caption, of both parts."""
    splits: tuple[Split, ...] = ("train", "validation")
    parts = [corpus.captioned(split) for split in splits]
    return {part.text(number): part.pixels([number])[0].tobytes() for part in parts for number in range(len(part))}


def test_every_picture_is_in_one_split_with_its_caption(base: Path) -> None:
    corpus = corpus_of(base, base / "corpus")
    corpus.verify()
    expected = {
        sentence(number): open_picture(base / "pictures" / f"{number}.png", FORM.size).tobytes()
        for number in range(COUNT)
    }
    assert pairs(corpus) == expected
    train, validation = len(corpus.captioned("train")), len(corpus.captioned("validation"))
    assert train + validation == COUNT
    assert 2 < validation < 20
    assert len(corpus.manifest.shards) > 4


def test_the_manifest_counts_text_and_says_the_form(base: Path) -> None:
    corpus = corpus_of(base, base / "corpus")
    (source,), tokenizer = corpus.manifest.sources, corpus.tokenizer()
    captions = [sentence(number) for number in range(COUNT)]
    assert source.documents == source.pictures == COUNT
    assert source.text_bytes == sum(len(text.encode()) for text in captions)
    assert source.tokens == sum(len(tokenizer.encode(text)) + 1 for text in captions)
    assert corpus.manifest.image_form == FORM
    assert sum(shard.places for shard in corpus.manifest.shards) == FORM.places * COUNT
    assert json.loads(corpus.manifest.to_json())["images"] == {"size": 8, "places": 3}


def test_places_stand_above_the_vocabulary_behind_the_first_token(base: Path) -> None:
    corpus = corpus_of(base, base / "corpus")
    first, end = corpus.manifest.tokenizer.vocab_size, corpus.manifest.tokenizer.end_of_document_id
    shard = open_shard(base / "corpus" / corpus.manifest.shards[0].path)
    for start in shard.document_starts:
        assert shard.tokens[start : start + 4].tolist() == [end, first, first + 1, first + 2]
    assert (shard.tokens < first).sum() + 3 * len(shard.document_starts) == len(shard.tokens)
    assert shard.pixels.shape == (len(shard.document_starts), 3, 8, 8)
    assert isinstance(shard.pixels.base, np.ndarray), "mapped, not read"


@pytest.mark.parametrize(("beyond", "dtype"), [(0, np.uint16), (1, np.uint32)])
def test_places_decide_too_how_wide_a_token_is(tmp_path: Path, beyond: int, dtype: type) -> None:
    write_folder(tmp_path / "pictures", {f"{number}.png": sentence(number) for number in range(20)})
    corpus = corpus_of(tmp_path, tmp_path / "corpus", image_form=ImageForm(8, 2**16 - 300 + beyond))
    assert corpus.manifest.tokenizer.vocab_size == 300
    shard = open_shard(corpus.folder / corpus.manifest.shards[0].path)
    assert (shard.tokens.dtype, int(shard.tokens.max())) == (dtype, 2**16 - 1 + beyond)


def test_the_number_of_workers_changes_no_byte(base: Path) -> None:
    corpus_of(base, base / "one", workers=1)
    corpus_of(base, base / "many", workers=2)
    assert content(base / "one") == content(base / "many")


@pytest.mark.parametrize("reached", ["spools/000.pixels", "corpus/train/*"])
def test_a_killed_preparation_run_again_gives_the_same_bytes(base: Path, reached: str) -> None:
    main([str(base), str(base / "unbroken"), "1"])
    folder = base / "killed"
    process = subprocess.Popen([sys.executable, pictures_by_hand.__file__, str(base), str(folder), "2"])
    while process.poll() is None and not any(base.glob(f".killed.preparing-*/{reached}")):
        time.sleep(0.002)
    process.kill()
    assert process.wait() < 0, "the preparation ended before it was killed"
    assert not folder.exists() or content(folder) == content(base / "unbroken")
    main([str(base), str(folder), "1"])
    assert content(folder) == content(base / "unbroken")


def test_a_duplicate_is_the_same_picture_with_the_same_caption(tmp_path: Path) -> None:
    captions = {"a.png": "An ox.", "again.png": "An ox.", "other.png": "An ox.", "c.png": "A cow.", "d.png": "A cow!"}
    same = plain("red")
    pictures = {"a.png": same, "again.png": same, "other.png": plain("blue"), "c.png": same, "d.png": same}
    write_folder(tmp_path / "pictures", captions, pictures)
    (source,) = corpus_of(tmp_path, tmp_path / "corpus").manifest.sources
    assert (source.documents, source.drops) == (4, {draw.DUPLICATE: 1})


def test_all_that_is_said_of_one_picture_stands_on_one_side(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_folder(folder, {f"{number}.png": "" for number in range(12)})
    records = [{"file_name": f"{n // 5}.png", "text": sentence(n)} for n in range(60)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    corpus = corpus_of(tmp_path, tmp_path / "corpus")
    parts = [corpus.captioned("train"), corpus.captioned("validation")]
    shown = [{part.pixels([n])[0].tobytes() for n in range(len(part))} for part in parts]
    assert shown[0].isdisjoint(shown[1])
    assert [len(part) / 5 for part in parts] == [len(pictures) for pictures in shown]
    stored = sum(len(open_shard(corpus.folder / shard.path).pixels) for shard in corpus.manifest.shards)
    assert stored < 60, "captions in a row share their picture"


def test_one_picture_is_not_held_out_of_itself(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_folder(folder, {"0.png": ""})
    records = [{"file_name": "0.png", "text": sentence(n)} for n in range(30)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    corpus = corpus_of(tmp_path, tmp_path / "corpus", options={"validation_fraction": 1e-9})
    assert len(corpus.captioned("train")) == 30


def test_without_eyes_a_source_of_pictures_is_refused_before_anything_is_read(base: Path) -> None:
    with pytest.raises(UserMistake, match="source pictures gives pictures, and the model takes none") as caught:
        corpus_of(base, base / "corpus", image_form=None)
    assert "model.vision" in caught.value.hint
    assert not (base / "corpus").exists()


def request(base: Path, form: ImageForm, *sources: dict[str, object]) -> Preparation:
    config = Preparation.Config.model_validate({"sources": list(sources)})
    return Preparation(
        config, BytePair(vocab_size=300), base / "corpus", cache_folder=base, base_folder=base, image_form=form
    )


def test_another_form_is_another_corpus(base: Path) -> None:
    key = request(base, FORM, PICTURES).key()
    assert key["pictures"] == "8 x 8 pixels in 3 places"
    assert key != request(base, ImageForm(8, 4), PICTURES).key() != request(base, ImageForm(4, 3), PICTURES).key()


def test_a_form_that_no_source_asks_for_is_no_part_of_the_key(base: Path) -> None:
    (base / "a.txt").write_text(sentence(1))
    assert "pictures" not in request(base, FORM, {"type": "text", "paths": "a.txt"}).key()


def test_a_corpus_of_another_form_says_what_helps(base: Path) -> None:
    corpus = corpus_of(base, base / "corpus")
    corpus.require_form(FORM)
    with pytest.raises(UserMistake, match="in 3 places, the model takes 8 x 8 pixels in 4 places") as caught:
        corpus.require_form(ImageForm(8, 4))
    assert "dreamlm prepare" in caught.value.hint
    with pytest.raises(UserMistake, match="the model takes none"):
        corpus.require_form(None)


def test_a_damaged_pixel_is_found(base: Path) -> None:
    corpus = corpus_of(base, base / "corpus")
    path = corpus.folder / corpus.manifest.shards[0].path
    whole, pixels = path.read_bytes(), open_shard(path).pixels.tobytes()
    place = whole.index(pixels)
    path.write_bytes(whole[: place + 5] + bytes([whole[place + 5] ^ 1]) + whole[place + 6 :])
    with pytest.raises(DataError, match="sha256"):
        corpus.verify()


def test_pictures_and_text_live_in_one_corpus(base: Path) -> None:
    (base / "a.jsonl").write_text("\n".join(json.dumps({"text": sentence(n)}) for n in range(200, 240)))
    text = {"type": "jsonl", "paths": "a.jsonl", "name": "text"}
    corpus = corpus_of(base, base / "corpus", text, PICTURES)
    corpus.require_form(FORM)
    assert [source.pictures for source in corpus.manifest.sources] == [0, COUNT]
    alone = corpus_of(base, base / "alone", text, image_form=None)
    assert alone.manifest.image_form is None
    assert {shard.places for shard in corpus.manifest.shards if shard.source == "text"} == {0}


def test_openings_are_words_of_captions(base: Path) -> None:
    corpus = corpus_of(base, base / "corpus")
    beginnings = {" ".join(sentence(number).split()[:3]) for number in range(COUNT)}
    found = held_out_openings(corpus, 3, 100)
    assert found
    assert set(found) <= beginnings


def test_shards_weigh_their_pixels_too(base: Path) -> None:
    small = corpus_of(base, base / "small").manifest.shards
    large = corpus_of(base, base / "large", image_form=ImageForm(64, 3)).manifest.shards
    assert len(large) > len(small)
    assert max(shard.documents for shard in large) == 1


def test_the_room_for_pixels_is_asked_for_before_they_are_copied(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "dreamlm.data_sources.preparation.build.require_space", lambda folder, needed: asked.append(needed)
    )
    corpus_of(base, base / "corpus")
    assert asked[-1] - asked[0] >= COUNT * 3 * 8 * 8
