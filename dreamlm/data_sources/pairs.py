"""Preference pairs out of any source of records: jsonl, parquet, csv, a data set of the hub.

1. templates make a prompt and two answers of each record; where dialogues have no prompt, their common beginning is it
2. ties, empty answers and repetitions are left out and counted
3. a hash of the prompt decides whether a pair is held out, so that a prompt is never on both sides
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import DataError
from dreamlm.core.rl.pair import Pair
from dreamlm.data_sources.sources import SourceConfig
from dreamlm.data_sources.sources.parts import check_templates, parts_of
from dreamlm.data_sources.sources.records import format_fields
from dreamlm.data_sources.sources.source import SourceContext, SourceReport


class PairData(ConfigModel):
    """Preference pairs: where the records come from, and how they become a prompt and two answers."""

    source: SourceConfig
    """Records: `jsonl`, `parquet` or `hf`, without `fields` and `format`; the templates below say what is read."""
    prompt: str | None = "{prompt}"
    """What both answers answer. null: the common beginning of both, up to its last line break, as in dialogues."""
    chosen: str = "{chosen}"
    """The answer that was preferred."""
    rejected: str = "{rejected}"
    """The other one."""
    validation_fraction: float = Field(0.2, gt=0.0, lt=1.0)
    """Share of the prompts that are held out."""

    @model_validator(mode="after")
    def _reads_records(self) -> Self:
        check_templates(self.source, self.templates)
        for name, template in (("chosen", self.chosen), ("rejected", self.rejected)):
            if not format_fields(template):
                raise ValueError(f"{name} must name a field of the records, as in {{{name}}}")
        return self

    @property
    def templates(self) -> list[str]:
        answers = [self.chosen, self.rejected]
        return answers if self.prompt is None else [self.prompt, *answers]


@dataclass(frozen=True)
class Pairs:
    """What was read, each part in the source's order."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    fingerprint: str
    """64 hex digits that change with any text, the order, or what is held out."""


def read_pairs(config: PairData, context: SourceContext, report: SourceReport) -> Pairs:
    """Read all pairs; what is left out is counted in the report.

    Raises: UserMistake when the records lack a field; DataError when no pair is left, or none on one side.
    Cost: holds every text in memory.
    """
    kept = list(_pairs(config, context, report))
    held_out = tuple(pair for pair in kept if pair.share < config.validation_fraction)
    train = tuple(pair for pair in kept if pair.share >= config.validation_fraction)
    if not train or not held_out:
        raise DataError(
            f"of {len(kept):,} preference pairs {len(train):,} are to train on and {len(held_out):,} to measure on",
            where=report.source,
            hint="both need some: read more pairs, or change rl.pairs.validation_fraction",
        )
    return Pairs(train, held_out, _fingerprint(train, held_out))


def _pairs(config: PairData, context: SourceContext, report: SourceReport) -> Iterator[Pair]:
    seen: set[Pair] = set()
    for parts, origin in parts_of(config.source, config.templates, context, report):
        pair = _apart(*parts) if config.prompt is None else _trimmed(*parts)
        if not pair.chosen.strip() or not pair.rejected.strip():
            report.drop("pair: an empty answer", origin)
        elif pair.chosen == pair.rejected:
            report.drop("pair: both answers are the same", origin)
        elif pair in seen:
            report.drop("pair: repeated", origin)
        else:
            seen.add(pair)
            yield pair


def _trimmed(prompt: str, chosen: str, rejected: str) -> Pair:
    """The pair without what ends its answers invisibly: the source trims the last part alone, which would tell."""
    return Pair(prompt, chosen.rstrip(), rejected.rstrip())


def _apart(chosen: str, rejected: str) -> Pair:
    """Two dialogues as their common beginning, up to a line break, and what follows it."""
    chosen, rejected = chosen.strip(), rejected.strip()
    begin = _common(chosen, rejected).rfind("\n") + 1
    return Pair(chosen[:begin], chosen[begin:], rejected[begin:])


def _common(left: str, right: str) -> str:
    both = enumerate(zip(left, right, strict=False))
    return left[: next((place for place, (a, b) in both if a != b), min(len(left), len(right)))]


def _fingerprint(train: tuple[Pair, ...], held_out: tuple[Pair, ...]) -> str:
    digest = hashlib.sha256()
    for part, pairs in (("train", train), ("held out", held_out)):
        for pair in pairs:
            digest.update(json.dumps([part, pair.prompt, pair.chosen, pair.rejected]).encode() + b"\n")
    return digest.hexdigest()
