"""Text that a tokenizer has no token for: it is lost, so nobody may find that out from a loss that looks too good."""

import json
from collections.abc import Sequence

from dreamlm.core.tokenizer import Tokenizer
from dreamlm.data_sources.manifest import ShardRecord


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for such text; None where the tokenizer has none, as when it knows every byte."""
    model = json.loads(tokenizer.backend.to_str())["model"]
    if model["type"] == "Unigram":
        number: int | None = model["unk_id"]
        return number
    token: str | None = model.get("unk_token")
    found: int | None = None if token is None else tokenizer.backend.token_to_id(token)
    return found


def unknown_text(records: Sequence[ShardRecord]) -> str:
    """A sentence about how much of the training text was lost; empty when nothing was."""
    train = [record for record in records if record.split == "train"]
    lost, tokens = sum(record.unknown_tokens for record in train), sum(record.text_tokens for record in train)
    if lost == 0:
        return ""
    return (
        f"{lost:,} of {tokens:,} training tokens ({lost / tokens:.2%}) are the unknown token: the tokenizer loses the "
        "text that it stands for, so bits per byte look better than they are, and cannot be compared with those of "
        "another tokenizer; the type `bpe` loses nothing"
    )
