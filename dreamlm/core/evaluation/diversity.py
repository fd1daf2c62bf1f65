"""Generation diversity: do a model's texts differ from one another, from themselves, and from what it was trained on?

prompts -> written(): texts, through `generate` alone -> the first words of each -> a figure with its interval each ->
section.py -> JSON, table, plots.py

The same for every kind of model: nothing but its texts is looked at. They are the same for any number of rows, since a
prompt's number and the seed alone decide its random numbers; so the figures are.
"""

from collections.abc import Callable, Mapping, Sequence
from math import log2
from typing import Any, final

from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.bootstrap import Resampling
from dreamlm.core.evaluation.estimates import OfTheSet, PerText, mean_figure, set_figure, units_of
from dreamlm.core.evaluation.score import no_progress
from dreamlm.core.evaluation.section import Section
from dreamlm.core.evaluation.self_bleu import SelfBleu
from dreamlm.core.evaluation.variety import NgramPool, repetition
from dreamlm.core.evaluation.vocabulary import numbered, words_of
from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.row import Generation
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import Tokenizer

DISTINCT_LENGTHS = (1, 2, 3)
REPETITION_LENGTH = ENTROPY_LENGTH = 4


@final
class Diversity:
    """Measures sets of texts, always in the same way."""

    class Config(ConfigModel):
        words: int = Field(40, ge=4)
        """Of each text, from its beginning, that distinct-n, self-BLEU, repetition and entropy look at: all of them
        depend on length, so texts of any length are measured on as much."""
        prompt_words: int = Field(8, ge=1)
        """Of each held-out document, that a text continues."""
        groups: int = Field(32, ge=5)
        """Most groups that the jackknife leaves out in turn; more take longer and make intervals steadier."""

        def build(self, resampling: Resampling) -> "Diversity":
            return Diversity(self, resampling)

    def __init__(self, config: Config, resampling: Resampling) -> None:
        self.config, self.resampling = config, resampling

    def measure(
        self,
        texts: Sequence[Generation],
        more: Sequence[PerText] = (),
        notes: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Section:
        """The figures of the texts, those of `more` behind them.

        notes: what was left out and why.
        settings: how the texts were written, for the section's JSON.

        Texts of one prompt are alike, so prompts are what is resampled, with all of their texts: intervals are about
        other prompts too. Of a single prompt, texts are, and intervals are about that prompt. Means over texts have a
        percentile bootstrap (`bootstrap.py`), distinct-n, self-BLEU and entropy, which belong to a set as a whole, a
        jackknife (`jackknife.py`), around what sets of as many texts have on average.
        """
        unit_N = units_of([text.prompt for text in texts])
        every_word = [words_of(text.text) for text in texts]
        words = [numbers[: self.config.words] for numbers in numbered(every_word)]
        measured = sum(len(text) for text in words)
        short = sum(len(text) < self.config.words for text in words)
        shares = [repetition(text, REPETITION_LENGTH) for text in words]
        of_texts = PerText(
            "repetition",
            f"share of a text's {REPETITION_LENGTH}-grams that came before in it",
            [share or 0.0 for share in shares],
            [0.0 if share is None else 1.0 for share in shares],
        )
        return Section(
            key="diversity",
            title="Generation diversity",
            summary=f"{len(texts):,} texts of {len({text.prompt for text in texts}):,} prompts; "
            f"{measured:,} words, the first {self.config.words} of each text",
            figures=(
                *(set_figure(one, unit_N, self.config.groups, self.resampling) for one in _of_the_set(words)),
                *(mean_figure(one, unit_N, self.resampling) for one in (of_texts, *more)),
            ),
            confidence=self.resampling.confidence,
            notes=(*notes, *_about_length(short, len(texts), self.config.words)),
            details={
                **(settings or {}),
                "texts": len(texts),
                "prompts": len({text.prompt for text in texts}),
                "words": measured,
                "words_of_each_text": self.config.words,
                "shorter_texts": short,
                "written": [{"prompt": text.prompt, "text": text.text} for text in texts],
            },
        )


def written(
    model: DreamLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    count: int,
    config: Sampler.Config,
    on_progress: Callable[[int, int], None] = no_progress,
) -> list[Generation]:
    """So many texts, in turn from each prompt; on_progress gets texts done and texts in all.

    Raises: as `generate` does.
    """
    texts: list[Generation] = []
    for begin in range(0, count, config.rows):
        batch = [prompts[number % len(prompts)] for number in range(begin, min(count, begin + config.rows))]
        texts += generate(model, tokenizer, batch, config, first_prompt=begin)
        on_progress(len(texts), count)
    return texts


def require_different(config: Sampler.Config, prompts: int, count: int) -> None:
    """Raises: UserMistake when texts of one prompt would all be the same."""
    if not config.draws and count > prompts:
        raise UserMistake(
            f"greedy writing has one text for each of {prompts:,} prompts, {count:,} are asked for",
            where="generate",
            hint="sample with --set generate.greedy=false --set generate.temperature=0.8, or ask for fewer texts",
        )


def _of_the_set(words: Sequence[Sequence[int]]) -> list[OfTheSet]:
    distinct = [
        OfTheSet(f"distinct-{length}", f"share of all {length}-grams", NgramPool(words, length).distinct)
        for length in DISTINCT_LENGTHS
    ]
    blended = OfTheSet("self-BLEU", "mean BLEU-4 of a text against all others", SelfBleu(words))
    pool = NgramPool(words, ENTROPY_LENGTH)
    most = log2(max(2, len(pool)))
    unit = f"bits of a {ENTROPY_LENGTH}-gram, at most {most:.2f}"
    return [*distinct, blended, OfTheSet("entropy", unit, pool.entropy, most, is_share=False)]


def _about_length(short: int, texts: int, words: int) -> list[str]:
    if 2 * short <= texts:
        return []
    return [
        f"{short:,} of {texts:,} texts have fewer than {words} words, so compare with texts of like length alone; "
        "raise generate.max_new_tokens, or lower eval.diversity.words"
    ]
