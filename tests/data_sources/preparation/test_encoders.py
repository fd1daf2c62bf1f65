"""A faster encoder is used only when it gives exactly the same ids."""

import json

import numpy as np
import pytest

from dreamlm.core.tokenizer import BytePair
from dreamlm.data_sources.preparation import encoders
from dreamlm.data_sources.preparation.encoders import (
    GigatokenEncoder,
    TokenizersEncoder,
    choose_encoder,
    has_unassigned,
    newest_probe,
)

TOKENIZER = BytePair(vocab_size=400).build(["the cat sat on the mat and the dog did not", "one two three"] * 10)
TEXTS = [b"the cat", "größer <|endoftext|> <|padding|>".encode(), b"", b"  \n\n the dog 12345"]


def test_the_reference_gives_the_ids_of_the_tokenizer_end_to_end() -> None:
    ids, lengths = TokenizersEncoder(TOKENIZER).encode(TEXTS)
    expected = TOKENIZER.encode_batch([text.decode() for text in TEXTS])
    assert lengths.tolist() == [len(document) for document in expected]
    assert ids.tolist() == [token for document in expected for token in document]


def test_gigatoken_gives_the_same_ids_also_for_special_strings() -> None:
    pytest.importorskip("gigatoken")
    expected_ids, expected_lengths = TokenizersEncoder(TOKENIZER).encode(TEXTS)
    ids, lengths = GigatokenEncoder(TOKENIZER).encode(TEXTS)
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(lengths, expected_lengths)
    assert choose_encoder(TOKENIZER, TEXTS)[0] == "gigatoken"


CONTEXTS = ["{}'s", " {}'T now", "a{}b {}1", "'{}x"]


@pytest.mark.parametrize("context", CONTEXTS)
def test_both_agree_on_code_points_that_only_one_of_them_knows(context: str) -> None:
    pytest.importorskip("gigatoken")
    points = [0x88F, 0xC5C, 0x378, 0x1F7FF, 0x33479, 0x10FFFF, *range(0xA7C0, 0xA800), *range(0x16EA0, 0x16EC0)]
    texts = [context.format(chr(point), chr(point)).encode() for point in points]
    texts = [one for text in texts for one in (b"plain", "größer\n".encode(), text, b"")]
    tokenizer = BytePair(vocab_size=400).build(["the cat's tail isn't the dog's", "CAN'T 'xa 'xb"] * 10)
    expected_ids, expected_lengths = TokenizersEncoder(tokenizer).encode(texts)
    ids, lengths = GigatokenEncoder(tokenizer).encode(texts)
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(lengths, expected_lengths)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain\t'", False),
        ("größer\n\t…\u2019", False),
        ("a\u200db\ue000", False),
        ("\u0378", True),
        ("ä\t\U0003ffff", True),
    ],
)
def test_only_unassigned_code_points_make_a_text_unsure(text: str, found: bool) -> None:
    assert has_unassigned(text.encode()) == found


def test_the_probe_has_both_ends_of_every_run_of_characters() -> None:
    probe = newest_probe()
    assert len(probe) < 20_000
    for character in ("\u0377", "\u037a", "\u052f", "\u0531"):
        assert f"{character}'s a{character}b {character}1" in probe
    assert not has_unassigned(probe.encode())


def test_one_other_id_disqualifies(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneOff(TokenizersEncoder):
        def encode(self, texts):  # type: ignore[no-untyped-def]
            ids, lengths = super().encode(texts)
            ids[-1] += 1
            return ids, lengths

    monkeypatch.setattr(encoders, "GigatokenEncoder", OneOff)
    name, why = choose_encoder(TOKENIZER, TEXTS)
    assert name == "tokenizers"
    assert "other ids" in why


@pytest.mark.parametrize(("error", "why"), [(ImportError("no"), "cannot be used"), (ValueError("odd"), "cannot read")])
def test_without_gigatoken_the_reason_is_given(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    def refuse(tokenizer: object) -> None:
        raise error

    monkeypatch.setattr(encoders, "GigatokenEncoder", refuse)
    name, reason = choose_encoder(TOKENIZER, TEXTS)
    assert name == "tokenizers"
    assert why in reason


def test_probes_hold_what_tokenizers_disagree_about() -> None:
    text = json.dumps(encoders.PROBES, ensure_ascii=False)
    assert all(piece in text for piece in ("I'LL", "  ", "123", "好", "\u200d", "\ufeff"))
