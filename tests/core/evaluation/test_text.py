import numpy as np
import pytest

from dreamlm.core.errors import DataError
from dreamlm.core.evaluation.text import TextHeldOut
from dreamlm.core.tokenizer import BytePair, Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BytePair(vocab_size=270).build(["the sea and the night"])


def real_targets(held_out: TextHeldOut, rows: int) -> list[int]:
    return [
        int(token)
        for batch in held_out.batches(rows)
        for tokens, documents in zip(batch.tokens, batch.documents, strict=True)
        for token, before, own in zip(tokens[1:], documents[:-1], documents[1:], strict=True)
        if before >= 0 and own >= 0
    ]


@pytest.mark.parametrize("text", ["t", "the sea", "the sea and the night, an old naïve man — " * 3])
@pytest.mark.parametrize("seq_length", [2, 7, 16, 500])
def test_every_token_and_the_end_of_the_document_are_predicted_once(
    tokenizer: Tokenizer, text: str, seq_length: int
) -> None:
    held_out = TextHeldOut(text, tokenizer, seq_length)
    for rows in (1, 3, 100):
        assert real_targets(held_out, rows) == [*tokenizer.encode(text), tokenizer.end_of_document_id]
    assert held_out.tokens == len(tokenizer.encode(text)) + 1
    assert held_out.utf8_bytes == len(text.encode())
    assert held_out.batches(1)[0].tokens.shape[1] == 1 + min(seq_length, held_out.tokens)


def test_windows_are_full_but_the_last_and_share_one_token(tokenizer: Tokenizer) -> None:
    batch = TextHeldOut("the sea and the night " * 9, tokenizer, 8).batches(1000)[0]
    assert batch.tokens.shape[1] == batch.documents.shape[1] == 9
    np.testing.assert_array_equal(batch.tokens[:-1, -1], batch.tokens[1:, 0])
    assert batch.tokens[0, 0] == tokenizer.end_of_document_id
    assert (batch.documents[:-1] == 0).all()
    assert (batch.tokens[batch.documents < 0] == tokenizer.padding_id).all()


def test_an_empty_text_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="empty"):
        TextHeldOut("", tokenizer, 8)


def test_a_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="lone surrogate"):
        TextHeldOut("a\udc00", tokenizer, 8)


def test_by_document_the_last_window_has_its_own_length(tokenizer: Tokenizer) -> None:
    held_out = TextHeldOut("the sea and the night " * 9, tokenizer, 8)
    rows = [row for batch in held_out.by_document().batches(1) for row in batch.tokens.tolist()]
    whole = [token for row in rows for token in row[1:]]
    assert whole == real_targets(held_out, 1)
    assert {len(row) for row in rows[:-1]} == {9}
    assert len(rows[-1]) == (held_out.tokens % 8 or 8) + 1
