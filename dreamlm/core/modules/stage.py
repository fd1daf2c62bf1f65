"""What a curriculum changes in a model while it is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Settings of a model that change no weight's shape."""

    dream_length: int
    """Steps of a dream."""
    num_dream_sequences: int
    """Dreams of a segment."""
    graph_reasoning_hops: int
    """How often messages go along the edges between dreams."""
    images: bool
    """Whether pictures are looked at."""
