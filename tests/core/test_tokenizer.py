"""Tokenizer: nothing is lost, nothing special sneaks in, and a saved tokenizer is the same tokenizer."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tokenizers import decoders, models, normalizers

from dreamlm.core.errors import DataError, RangeError, UserMistake
from dreamlm.core.tokenizer import BytePair, Pretrained, TextStream, Tokenizer

TEXTS = ["the cat sat on the mat, the dog did not", "Überall dieselbe Leier; naïve café 你好 🙂", "1234 5678"] * 20
TOKENIZER = Tokenizer.train(BytePair(vocab_size=320), TEXTS)


def byte_fallback() -> Tokenizer:
    """As Llama-2's: a few letters, and a token for each byte of everything else."""
    pieces = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁tex", "▁t", "▁te"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("▁", "t"), ("▁t", "e")]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "<pad>"])
    return Tokenizer(backend, "</s>", "<pad>")


FALLBACK = byte_fallback()
either = pytest.mark.parametrize("tokenizer", [TOKENIZER, FALLBACK], ids=["byte level", "byte fallback"])
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(anything)
def test_decoding_gives_back_the_text(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.sampled_from(["<|endoftext|>", "<|padding|>", " a", "<|", "b"]), max_size=8).map("".join))
def test_special_strings_in_text_are_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.end_of_document_id not in ids
    assert TOKENIZER.padding_id not in ids
    assert TOKENIZER.decode(ids) == text


def test_end_of_document_is_not_padding() -> None:
    assert TOKENIZER.end_of_document_id != TOKENIZER.padding_id
    with pytest.raises(RangeError, match="two tokens"):
        Tokenizer(tokenizers.Tokenizer.from_str(TOKENIZER.backend.to_str()), "<|padding|>", "<|padding|>")


def test_training_twice_gives_one_digest() -> None:
    assert Tokenizer.train(BytePair(vocab_size=320), TEXTS).digest == TOKENIZER.digest
    assert BytePair(vocab_size=319).build(TEXTS).digest != TOKENIZER.digest


def test_a_vocabulary_too_small_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValidationError, match="258"):
        BytePair(vocab_size=257)


def test_a_bare_name_stands_for_its_type() -> None:
    adapter: TypeAdapter[BytePair | Pretrained] = TypeAdapter(Tokenizer.Config)
    assert adapter.validate_python("bpe") == BytePair()
    assert adapter.validate_python({"type": "pretrained", "path": "x"}) == Pretrained(path="x")


def test_saving_and_loading_keeps_digest_and_ids(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.digest == TOKENIZER.digest
    assert loaded.encode_batch(TEXTS) == TOKENIZER.encode_batch(TEXTS)
    assert loaded.padding_id == TOKENIZER.padding_id


def test_transformers_reads_the_saved_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    text = TEXTS[1] + "<|endoftext|>"
    assert other(text, add_special_tokens=False)["input_ids"] == TOKENIZER.encode(text)
    assert other.eos_token_id == other.bos_token_id == TOKENIZER.end_of_document_id
    assert other.pad_token_id == TOKENIZER.padding_id


def test_for_transformers_a_text_opens_as_every_document_does_and_is_padded_on_the_left(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["the cat sat", "the <|endoftext|> dog"]
    opened = [[TOKENIZER.end_of_document_id, *TOKENIZER.encode(text)] for text in texts]
    assert other(texts)["input_ids"] == opened
    assert other.batch_decode(opened, skip_special_tokens=True) == texts
    batch = other(texts, padding=True)
    longest = max(map(len, opened))
    assert batch["input_ids"] == [[TOKENIZER.padding_id] * (longest - len(ids)) + ids for ids in opened]
    assert batch["attention_mask"] == [[0] * (longest - len(ids)) + [1] * len(ids) for ids in opened]


@pytest.mark.parametrize("token", ["<end of text>", "a:1", "$A", "$B:0"])
def test_a_special_token_of_any_spelling_opens_a_text(tmp_path: Path, token: str) -> None:
    backend = tokenizers.Tokenizer.from_str(TOKENIZER.backend.to_str())
    backend.add_special_tokens([token])
    tokenizer = Tokenizer(backend, token, "<|padding|>")
    assert tokenizer.backend.encode("cat").ids == [tokenizer.end_of_document_id, *tokenizer.encode("cat")]


def test_a_pretrained_tokenizer_without_padding_gets_its_own(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "the"}))
    tokenizer = Pretrained(path=str(tmp_path)).build([])
    assert tokenizer.end_of_document == "the"
    assert tokenizer.padding_id != tokenizer.end_of_document_id
    assert tokenizer.encode("mat") == TOKENIZER.encode("mat")


def test_a_tokenizer_that_is_nowhere_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match=r"no tokenizer could be read: there is no tokenizer\.json") as caught:
        Tokenizer.pretrained(Pretrained(path=str(tmp_path)))
    assert "tokenizer.json" in caught.value.hint


def test_texts_of_many_are_those_of_each() -> None:
    batches = [TOKENIZER.encode(text) for text in ("the cat", "", "the mat 静")]
    assert (
        TOKENIZER.decode_batch(batches) == [TOKENIZER.decode(ids) for ids in batches] == ["the cat", "", "the mat 静"]
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str | None) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.where == str(tmp_path / name)


def test_a_lone_surrogate_is_a_data_error() -> None:
    with pytest.raises(DataError, match="lone surrogate"):
        TOKENIZER.encode("a\ud800b")


@either
@settings(max_examples=200)
@given(st.data(), st.integers(1, 5))
def test_streamed_pieces_add_up_to_the_whole(tokenizer: Tokenizer, data: st.DataObject, step: int) -> None:
    characters = st.text(max_size=20).map(tokenizer.encode)
    anything = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40)
    ids = [token for part in data.draw(st.lists(characters | anything, max_size=5)) for token in part]
    stream = TextStream(tokenizer)
    pieces = [stream.push(ids[start : start + step]) for start in range(0, len(ids), step)]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


@either
@pytest.mark.parametrize("text", ["a😀𝄞é", "日本語 text 😀 ok", "語" * 70])
def test_a_streamed_piece_never_ends_inside_a_character(tokenizer: Tokenizer, text: str) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push([token]) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


@either
@pytest.mark.parametrize("prompt", ["", "te", "te " * 40, "te \ufffd"])
def test_what_follows_a_prompt_keeps_its_space(tokenizer: Tokenizer, prompt: str) -> None:
    before, whole = tokenizer.encode(prompt), tokenizer.encode(f"{prompt} te te")
    assert whole[: len(before)] == before
    stream = TextStream(tokenizer, before)
    pieces = [stream.push([token]) for token in whole[len(before) :]]
    assert prompt + "".join(pieces) + stream.finish() == tokenizer.decode(whole)


@either
def test_specials_inside_of_a_character_do_not_tear_it(tokenizer: Tokenizer) -> None:
    first, *others = tokenizer.encode("😀")[-4:]
    ids = [*tokenizer.encode("t" * 40), first, *[tokenizer.padding_id] * 40, *others]
    stream = TextStream(tokenizer)
    assert "".join(stream.push([token]) for token in ids) == "t" * 40 + "😀"


@either
def test_a_text_cut_inside_of_a_character_loses_that_character_alone(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("te 日本語")[:-1]
    stream = TextStream(tokenizer)
    pieces = [stream.push([token]) for token in ids]
    assert ("".join(pieces), stream.finish()) == ("te 日本", "\ufffd")
    assert tokenizer.decode(ids) == "te 日本\ufffd"
    assert tokenizer.decode_batch([ids]) == ["te 日本\ufffd"]


def test_a_byte_that_is_no_utf_8_costs_its_neighbours_nothing() -> None:
    spelled = [FALLBACK.backend.token_to_id(f"<0x{byte:02X}>") for byte in b"\xff\xe2\x96\x81\x80\xc3\xa9"]
    assert FALLBACK.decode(spelled) == "\ufffd▁\ufffdé"
