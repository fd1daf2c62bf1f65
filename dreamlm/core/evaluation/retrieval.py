"""Retrieval: how often a held-out picture finds its caption among all others, and a caption its picture.

pairs -> `compared`: role vectors of pictures and captions, and how alike each two are -> ranks -> figures -> section.py

Shapes: N pairs, R roles, D width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.evaluation.bootstrap import Interval, Resampling
from dreamlm.core.evaluation.estimates import PerText, mean_figure
from dreamlm.core.evaluation.jackknife import FEWEST_GROUPS
from dreamlm.core.evaluation.score import no_progress
from dreamlm.core.evaluation.section import Figure, Section
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.contrast import similarity
from dreamlm.core.objectives.captions import NO_TOKEN, Captions, comparing, longest_caption, roles_of_captions
from dreamlm.core.rng import derive_seed
from dreamlm.core.types import Captioned

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Compared:
    """How alike pictures and captions are."""

    similarity_NN: npt.NDArray[np.float64]
    """Of each picture (first) with each caption."""
    belongs_NN: npt.NDArray[np.bool_]
    """Which captions are right for which picture: its own, the same one again, and those of the same picture."""
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Direction:
    """One way to ask: who asks, and the rank of the first right answer among all."""

    name: str
    of: str
    """What asks, in the plural."""
    rank_N: npt.NDArray[np.int64]
    """From 1; an answer that is as alike as the right one counts as before it."""
    right_N: npt.NDArray[np.int64]
    """How many answers are right."""

    def chance(self, first: int) -> float:
        """The mean probability that a random order has a right answer among its first ones."""
        number = len(self.rank_N)
        ways = math.comb(number, min(first, number))
        missed = [math.comb(number - int(right), min(first, number)) / ways for right in self.right_N]
        return 1.0 - sum(missed) / number


def compared(
    model: DreamLM,
    pairs: Captioned,
    numbers: Sequence[int],
    rows: int,
    on_progress: Callable[[int, int], None] = no_progress,
) -> Compared:
    """The pairs of these numbers, each picture with each caption; on_progress gets pairs done and in all.

    The model has `vision` with a contrastive loss.  Cost: a pass for each pair, O(N^2) products.
    """
    vision, contrast = comparing(model)
    most, pictures, captions, keys = longest_caption(model), [], [], list[tuple[bytes, tuple[int, ...]]]()
    with inference(model):
        for begin in range(0, len(numbers), rows):
            some = numbers[begin : begin + rows]
            pixels = pairs.pixels(some)
            ids = [pairs.caption(number)[:most] for number in some]
            keys += [(picture.tobytes(), tuple(caption)) for picture, caption in zip(pixels, ids, strict=True)]
            longest = max(1, *map(len, ids))
            padded = [caption + [NO_TOKEN] * (longest - len(caption)) for caption in ids]
            pictures.append(contrast.of_pictures(vision.vectors(torch.from_numpy(pixels).to(model.device))))
            captions.append(roles_of_captions(model, Captions(torch.tensor(padded, device=model.device))))
            on_progress(min(begin + rows, len(numbers)), len(numbers))
        alike_NN = similarity(torch.cat(pictures).double(), torch.cat(captions).double()).cpu().numpy()
    belongs_NN = np.array([[one[0] == two[0] or one[1] == two[1] for two in keys] for one in keys])
    return Compared(alike_NN, belongs_NN, tuple(pairs.text(number) for number in numbers))


def directions(found: Compared) -> tuple[Direction, Direction]:
    """Pictures that look for captions, and captions that look for pictures."""
    ways = (
        ("picture to text", "pictures", found.similarity_NN),
        ("text to picture", "captions", found.similarity_NN.T),
    )
    right_N = found.belongs_NN.sum(axis=1)
    return tuple(  # type: ignore[return-value]
        Direction(name, of, _ranks(alike_NN, found.belongs_NN), right_N) for name, of, alike_NN in ways
    )


@final
class Retrieval:
    """Measures retrieval, always in the same way."""

    class Config(ConfigModel):
        pairs: int = Field(1000, ge=2)
        """Most held-out pairs that are compared, evenly spread; the more there are, the harder it is."""

        def build(self, resampling: Resampling) -> "Retrieval":
            return Retrieval(self, resampling)

    def __init__(self, config: Config, resampling: Resampling) -> None:
        self.config, self.resampling = config, resampling

    def chosen(self, pairs: int) -> list[int]:
        """Numbers of the pairs to compare, out of so many."""
        count = min(self.config.pairs, pairs)
        return [number * pairs // count for number in range(count)]

    def measure(self, found: Compared) -> Section:
        """Recall among the first 1, 5 and 10, and the median rank, both ways, each with what chance would give.

        Intervals are percentile bootstraps over those who ask, among the same answers.
        """
        ways = directions(found)
        number = len(found.captions)
        return Section(
            key="retrieval",
            title="Retrieval",
            summary=f"{number:,} held-out pictures and their captions",
            figures=tuple(figure for way in ways for figure in self._figures(way)),
            confidence=self.resampling.confidence,
            notes=tuple(_notes(found)),
            details={
                "pairs": number,
                "chance": {f"{way.name} recall@{first}": way.chance(first) for way in ways for first in RECALL_AT},
                "ranks": [
                    {
                        "caption": caption,
                        "finds": found.captions[int(likeliest)],
                        "rank_of_caption": int(of_caption),
                        "rank_of_picture": int(of_picture),
                    }
                    for caption, likeliest, of_caption, of_picture in zip(
                        found.captions, found.similarity_NN.argmax(axis=1), ways[0].rank_N, ways[1].rank_N, strict=True
                    )
                ],
            },
        )

    def _figures(self, way: Direction) -> Iterator[Figure]:
        unit_N = np.arange(len(way.rank_N))
        for first in RECALL_AT:
            hits = (way.rank_N <= first).astype(float).tolist()
            unit = f"share of {way.of}, by chance {way.chance(first):.3f}"
            one = PerText(f"{way.name} recall@{first}", unit, hits, [1.0] * len(hits))
            yield mean_figure(one, unit_N, self.resampling)
        by_chance = float(np.median((len(way.rank_N) + 1) / (way.right_N + 1)))
        unit = f"of {len(way.rank_N):,} answers, by chance {by_chance:.1f}"
        value = float(np.median(way.rank_N))
        yield Figure(f"{way.name} median rank", value, self._median_interval(way.rank_N), unit, is_share=False)

    def _median_interval(self, rank_N: npt.NDArray[np.int64]) -> Interval | None:
        if len(rank_N) < FEWEST_GROUPS:
            return None
        sure = self.resampling
        generator = np.random.default_rng(derive_seed(sure.seed, "bootstrap"))
        medians = [np.median(generator.choice(rank_N, len(rank_N))) for _ in range(sure.resamples)]
        tail = (1 - sure.confidence) / 2
        low, high = np.quantile(medians, [tail, 1 - tail])
        return Interval(float(low), float(high))


def _ranks(alike_NN: npt.NDArray[np.float64], belongs_NN: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    best_N = np.where(belongs_NN, alike_NN, -np.inf).max(axis=1)
    ranks: npt.NDArray[np.int64] = 1 + ((alike_NN >= best_N[:, None]) & ~belongs_NN).sum(axis=1)
    return ranks


def _notes(found: Compared) -> Iterator[str]:
    if shared := int((found.belongs_NN.sum(axis=1) > 1).sum()):
        yield f"{shared:,} pictures have several right captions, because a caption or a picture is there more than once"
