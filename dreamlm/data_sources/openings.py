"""How held-out documents begin: prompts that a model was not trained on, without another file."""

from collections.abc import Iterator
from itertools import islice, zip_longest

import numpy as np

from dreamlm.core.errors import DataError
from dreamlm.core.rng import derive_seed
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.held_out import ValidationPart
from dreamlm.data_sources.order import shuffled

TOKENS_PER_WORD = 16
"""Read of a document for each word wanted; one whose words are longer is passed over."""


def held_out_openings(corpus: Corpus, words: int, count: int) -> list[str]:
    """The first `words` words of at most `count` held-out documents that are longer, no two alike.

    Sources take turns, each with its documents in a shuffled order that never changes for a corpus. Words are what
    white space divides, as in `rl.prompts`; an opening keeps the space between them and has none behind the last.

    Raises: DataError when no document was held out, or none is longer.
    """
    tokenizer = corpus.tokenizer()
    sources = [_openings(part, tokenizer, words) for part in corpus.validation_parts()]
    in_turn = (opening for turn in zip_longest(*sources) for opening in turn if opening is not None)
    found = list(islice(_different(in_turn), count))
    if not found:
        raise DataError(
            f"no held-out document has more than {words} words",
            where=str(corpus.folder),
            hint="give prompts with --prompts FILE, or lower eval.diversity.prompt_words",
        )
    return found


def _openings(part: ValidationPart, tokenizer: Tokenizer, words: int) -> Iterator[str]:
    documents = [(shard, number) for shard in part.shards for number in range(len(shard.document_starts))]
    order = shuffled(np.arange(len(documents)), len(documents), derive_seed(0, "openings", part.name))
    for place in order:
        shard, number = documents[place]
        text = tokenizer.decode(shard.text(number, TOKENS_PER_WORD * (words + 1)))
        pieces = text.split(maxsplit=words)
        if len(pieces) > words:
            yield text[: len(text) - len(pieces[-1])].rstrip()


def _different(texts: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text
