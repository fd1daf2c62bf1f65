"""Preferences as a reward model reads them, with what measurements say about the two answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dreamlm.core.heads.reward import COMPONENTS
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.pair import Pair
from dreamlm.core.rl.reading import Reading, readings
from dreamlm.core.tokenizer import Tokenizer

Measure: TypeAlias = Callable[[Sequence[Answer]], Mapping[str, Sequence[float | None]]]
"""Measured values of answers by the name of a component; None, or a name that is absent, is not known."""


def measures_nothing(answers: Sequence[Answer]) -> Mapping[str, Sequence[float | None]]:
    """For components that preferences alone decide."""
    return {}


@dataclass(frozen=True)
class ReadPair:
    """One preference."""

    chosen: Reading
    rejected: Reading
    chosen_is_first: bool
    """See `Pair`."""
    measured_C: tuple[float, ...]
    """By component: 1 where the measurement ranks the chosen answer higher, -1 the rejected one, 0 where none does."""

    @property
    def tokens(self) -> int:
        return len(self.chosen.ids) + len(self.rejected.ids)


@dataclass(frozen=True)
class ReadPairs:
    """Some preferences, and what reading cost them."""

    pairs: tuple[ReadPair, ...]
    cut: int
    """Texts that lost their oldest tokens, because the window is too short for them."""
    same: int
    """Pairs left out because nothing but the lost tokens told their answers apart."""


def read_pairs_as_tokens(
    pairs: Sequence[Pair], tokenizer: Tokenizer, window: int, measure: Measure = measures_nothing
) -> ReadPairs:
    """Each pair for a model with a window of so many tokens."""
    texts = [(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    read = readings(tokenizer, window, texts)
    values = measure(_answers(texts, tokenizer))
    found = []
    for number, pair in enumerate(pairs):
        chosen, rejected = read[2 * number], read[2 * number + 1]
        if chosen.ids != rejected.ids:
            ranks = tuple(_rank(values.get(name, ()), 2 * number) for name in COMPONENTS)
            found.append(ReadPair(chosen, rejected, pair.chosen_is_first, ranks))
    return ReadPairs(tuple(found), sum(reading.lost > 0 for reading in read), len(pairs) - len(found))


def _rank(values: Sequence[float | None], first: int) -> float:
    """How the values of two neighbours compare."""
    chosen, rejected = values[first : first + 2] or (None, None)
    if chosen is None or rejected is None:
        return 0.0
    return float((chosen > rejected) - (chosen < rejected))


def _answers(texts: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[Answer]:
    end = tokenizer.end_of_document_id
    prompts = tokenizer.encode_batch([prompt for prompt, _ in texts])
    answers = tokenizer.encode_batch([answer for _, answer in texts])
    return [
        Answer(Prompt(prompt), (end, *prompt_ids), (*ids, end), answer, ended=True)
        for (prompt, answer), prompt_ids, ids in zip(texts, prompts, answers, strict=True)
    ]
