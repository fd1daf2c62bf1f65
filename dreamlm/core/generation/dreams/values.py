"""The dreams of a text in words: what is collected while a model writes, and what every form of showing them reads.

Numbers (of dreams, steps, edge types) count from 0, as in the model; what people see counts dreams and steps from 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dreamlm.core.generation.segments import Passage
from dreamlm.core.modules.dreaming.edges import edge_type_names
from dreamlm.core.roles import ROLES


class Neighbour(NamedTuple):
    """A token of the vocabulary that a vector lies near."""

    id: int
    token: str
    """Its text, exactly."""
    score: float
    """How near, from -1 to 1."""


@dataclass(frozen=True)
class Triplet:
    """The nearest tokens of three role vectors, nearest first."""

    what: tuple[Neighbour, ...]
    action: tuple[Neighbour, ...]
    result: tuple[Neighbour, ...]

    @property
    def roles(self) -> Mapping[str, tuple[Neighbour, ...]]:
        """By the name of the role."""
        return dict(zip(ROLES, (self.what, self.action, self.result), strict=True))

    @property
    def label(self) -> str:
        """Its nearest tokens: `sea → calm → home`."""
        return " → ".join(visible(nearest[0].token) for nearest in (self.what, self.action, self.result))


@dataclass(frozen=True)
class Dream:
    """One sequence of triplets."""

    gate: tuple[float, ...]
    """Weight of each expert that dreamt it; 0 where the expert was not chosen."""
    steps: tuple[Triplet, ...]


@dataclass(frozen=True)
class Node:
    """A step of a dream."""

    dream: int
    step: int

    @property
    def label(self) -> str:
        """As people see it: `2.1` is the first step of the second dream."""
        return f"{self.dream + 1}.{self.step + 1}"


class Edge(NamedTuple):
    """What messages go along, from source to target."""

    source: Node
    target: Node
    shares: tuple[float, ...]
    """Of each type of edges; sum to 1."""

    @property
    def kind(self) -> int:
        """Number of the type with the largest share."""
        return self.shares.index(self.strength)

    @property
    def type(self) -> str:
        """Its name."""
        return edge_type_names(len(self.shares))[self.kind]

    @property
    def by_type(self) -> Mapping[str, float]:
        """The shares by the names of the types."""
        return dict(zip(edge_type_names(len(self.shares)), self.shares, strict=True))

    @property
    def strength(self) -> float:
        """The share of that type."""
        return max(self.shares)


@dataclass(frozen=True)
class DreamGraph:
    """What one module dreamt of one segment."""

    roles: Triplet
    """What the dreams began from."""
    dreams: tuple[Dream, ...]
    edges: tuple[Edge, ...]

    def strongest(self, count: int) -> list[Edge]:
        """So many of the strongest edges, the strongest first; of equal ones, the first."""
        return sorted(self.edges, key=lambda edge: -edge.strength)[:count]


@dataclass(frozen=True)
class DreamtSegment:
    """A segment of a text, and what the model dreamt when it had read it."""

    passage: Passage
    text: str
    graphs: Mapping[str, DreamGraph]
    """By the name of the module."""


@dataclass(frozen=True)
class DreamtText:
    """A text with the dreams of its segments, in the order in which they were dreamt."""

    prompt: str
    text: str | None
    """What the model wrote; None when it was interrupted before the end."""
    segments: tuple[DreamtSegment, ...]


@dataclass(frozen=True)
class DreamRecord:
    """Everything that one call of the command dreamt."""

    texts: tuple[DreamtText, ...]
    segment_length: int
    """Tokens of a segment."""
    neighbours: str
    """How the nearest tokens are found, in a sentence."""
    interrupted: bool
    """Whether texts are missing, or not finished."""


def visible(token: str) -> str:
    """A token as people can see it on one line: without outer spaces, or with its spaces and controls made visible."""
    bare = token.strip(" ")
    return _escaped(bare, "") if bare else "␣" * len(token)


def without_controls(text: str) -> str:
    """The text with escapes for controls, of which XML holds no others than line ends and tabs."""
    return _escaped(text, "\n\t")


def title(number: int, segment: DreamtSegment) -> str:
    """What people call a segment of the text of that number: `text 1, segment 3, tokens 32 to 47 (written)`."""
    passage = segment.passage
    end = passage.begin + len(passage.token_ids) - 1
    given = passage.prompt_tokens
    origin = "prompt" if given == len(passage.token_ids) else "prompt, then written" if given else "written"
    again = f" of reading {passage.reading + 1}" if passage.reading else ""
    return f"text {number + 1}, segment {passage.number + 1}{again}, tokens {passage.begin} to {end} ({origin})"


def _escaped(text: str, kept: str) -> str:
    """The text with escapes for all that cannot be printed and is not to be kept."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in kept else one.encode("unicode_escape").decode("ascii") for one in text
    )
