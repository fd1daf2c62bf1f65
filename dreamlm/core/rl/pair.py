"""A preference: two answers to one prompt, of which somebody liked the first better."""

from dataclasses import dataclass

from dreamlm.core.rng import derive_seed

_HASHES = 2**63


@dataclass(frozen=True)
class Pair:
    """Texts, not yet tokenised; the two answers differ and neither is empty."""

    prompt: str
    """Empty where the answers have nothing in common to answer."""
    chosen: str
    rejected: str

    @property
    def share(self) -> float:
        """In [0, 1), by a hash of the prompt, and of both answers where there is no prompt: decides the split."""
        texts = (self.prompt,) if self.prompt else tuple(sorted((self.chosen, self.rejected)))
        return derive_seed(0, "split of pairs", *texts) / _HASHES

    @property
    def chosen_is_first(self) -> bool:
        """In which order the answers are shown to whoever must not know which is which; a coin thrown by a hash."""
        first, second = sorted((self.chosen, self.rejected))
        swapped = derive_seed(0, "order of answers", self.prompt, first, second) % 2 == 1
        return self.chosen == (second if swapped else first)
