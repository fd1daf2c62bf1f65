"""Prompts for reinforcement learning, out of any source: fields of records, or the beginnings of documents.

A hash of the prompt decides whether it is held out, and the order of those that are, so that the first of them stand
for all; repeated prompts count once. Which prompts come next is a pure function of the seed and of how many came
before: each pass over them has an order of its own.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Self, final

import numpy as np
from pydantic import Field, model_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import DataError
from dreamlm.core.rl.answer import Prompt
from dreamlm.core.rng import derive_seed
from dreamlm.data_sources.order import shuffled
from dreamlm.data_sources.sources import SourceConfig
from dreamlm.data_sources.sources.parts import check_templates, parts_of
from dreamlm.data_sources.sources.source import SourceContext, SourceReport


class PromptData(ConfigModel):
    """Where prompts come from. With `prompt`, they are read from records; without, they are beginnings of documents."""

    source: SourceConfig | None = None
    """Default: every source that the model was trained on, in turn."""
    held_out: SourceConfig | None = None
    """A source whose prompts are held out, all of them; default a share of the prompts, chosen by a hash."""
    prompt: str | None = None
    """Template of the prompt, such as `Q: {question}\\nA:`; null: the first words of each document."""
    reference: str | None = None
    """Template of what a good answer says, such as ` {answer}`; null with `prompt`: nobody knows."""
    words: int = Field(8, ge=1)
    """How many words of a document are its prompt; the rest of it is what a good answer says."""
    limit: int = Field(100_000, ge=2)
    """At most so many different prompts are read."""
    validation_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the prompts that are held out."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.reference is not None and self.prompt is None:
            raise ValueError("reference needs a prompt: without one the rest of the document is the reference")
        if self.prompt is not None and self.source is None:
            raise ValueError("prompt is a template for records: name their source too")
        if self.source is not None and self.prompt is not None:
            for source in (self.source, self.held_out):
                if source is not None:
                    check_templates(source, self.templates)
        return self

    @property
    def templates(self) -> list[str]:
        return [template for template in (self.prompt, self.reference) if template is not None]


@final
class Prompts:
    """Prompts to learn from, and others to measure on. Implements `core.rl.trainer.PromptSource`."""

    def __init__(self, train: Sequence[Prompt], held_out: Sequence[Prompt], seed: int) -> None:
        """`seed` decides the order of the prompts to learn from."""
        self.train: Sequence[Prompt] = tuple(train)
        self.held_out: Sequence[Prompt] = tuple(held_out)
        self._seed = seed
        self.fingerprint = _fingerprint(self.train, self.held_out)
        """64 hex digits that change with any text, the order, or what is held out."""

    def draw(self, cursor: int, count: int) -> list[Prompt]:
        """The next `count` prompts after the first `cursor`."""
        places = np.arange(cursor, cursor + count)
        size = len(self.train)
        return [
            self.train[int(shuffled(place % size, size, derive_seed(self._seed, "prompts", int(place // size)))[0])]
            for place in places
        ]


def read_prompts(
    config: PromptData, sources: Sequence[SourceConfig], context: SourceContext, reports: list[SourceReport], seed: int
) -> Prompts:
    """Read all prompts, from `sources` when the configuration names none; each source's report joins `reports`.

    Raises: UserMistake when the records lack a field; DataError when no prompt is left, or none on one side.
    Cost: holds every text in memory.
    """
    drawn = itertools.islice(_distinct(_in_turn(_each(config, sources, context, reports))), config.limit)
    if config.held_out is None:
        found = list(drawn)
        held_out = [prompt for prompt in found if _share(prompt) < config.validation_fraction]
        train = [prompt for prompt in found if _share(prompt) >= config.validation_fraction]
    else:
        held_out = list(itertools.islice(_distinct(_prompts(config, config.held_out, context, reports)), config.limit))
        kept = {prompt.text for prompt in held_out}
        train = [prompt for prompt in drawn if prompt.text not in kept]
    if not train or not held_out:
        raise DataError(
            f"{len(train):,} different prompts are to learn from and {len(held_out):,} to measure on",
            where="rl.prompts",
            hint="both need some: read more prompts, or change rl.prompts.validation_fraction",
        )
    return Prompts(train, sorted(held_out, key=_share), seed)


def _each(
    config: PromptData, sources: Sequence[SourceConfig], context: SourceContext, reports: list[SourceReport]
) -> list[Iterator[Prompt]]:
    """The prompts of each source."""
    named = [config.source] if config.source is not None else sources
    return [_prompts(config, options, context, reports) for options in named]


def _in_turn(sources: list[Iterator[Prompt]]) -> Iterator[Prompt]:
    """One prompt of each source after the other, so that a limit leaves none out."""
    while sources:
        going = []
        for source in sources:
            for prompt in itertools.islice(source, 1):
                yield prompt
                going.append(source)
        sources = going


def _prompts(
    config: PromptData, options: SourceConfig, context: SourceContext, reports: list[SourceReport]
) -> Iterator[Prompt]:
    report = SourceReport(options.source_name)
    reports.append(report)
    if config.prompt is not None:
        for parts, _ in parts_of(options, config.templates, context, report):
            yield Prompt(*parts)
        return
    for document in options.build(context).documents(report):
        words = document.text.split(maxsplit=config.words)
        if len(words) > config.words:
            rest = words[-1]
            yield Prompt(document.text[: len(document.text) - len(rest)].rstrip(), " " + rest)
        else:
            report.drop("prompt: the document is not longer", document.input)


def _distinct(prompts: Iterator[Prompt]) -> Iterator[Prompt]:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.text not in seen:
            seen.add(prompt.text)
            yield prompt


def _share(prompt: Prompt) -> float:
    """A number in [0, 1) that depends on the prompt's text alone."""
    digest = hashlib.blake2b(prompt.text.encode(), digest_size=8, person=b"held out").digest()
    return int.from_bytes(digest, "big") / 2**64


def _fingerprint(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for part, prompts in (("train", train), ("held out", held_out)):
        for prompt in prompts:
            digest.update(json.dumps([part, prompt.text, prompt.reference]).encode() + b"\n")
    return digest.hexdigest()
