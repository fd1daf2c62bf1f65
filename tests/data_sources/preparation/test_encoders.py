"""A faster encoder is used only when it gives exactly the same ids."""

import json

import numpy as np
import pytest

from dreamlm.core.tokenizer import BytePair
from dreamlm.data_sources.preparation import encoders
from dreamlm.data_sources.preparation.encoders import GigatokenEncoder, TokenizersEncoder, choose_encoder

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
