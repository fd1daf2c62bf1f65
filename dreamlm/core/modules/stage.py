"""What a curriculum changes in a model while it is trained."""

from pydantic import Field

from dreamlm.core.config import ConfigModel


class Stage(ConfigModel):
    """Settings of a model that change no weight's shape."""

    dream_length: int = Field(ge=1)
    """Steps of a dream."""
    num_dream_sequences: int = Field(ge=1)
    """Dreams of a segment."""
    graph_reasoning_hops: int = Field(ge=1)
    """How often messages go along the edges between dreams."""
    images: bool = False
    """Whether pictures are looked at."""
