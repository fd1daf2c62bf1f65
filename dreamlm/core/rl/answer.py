"""What passes between the parts of reinforcement learning: a prompt, and an answer that the policy wrote."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """What the policy is asked to continue."""

    text: str
    reference: str = ""
    """What a good answer says; empty where nobody knows."""


@dataclass(frozen=True)
class Answer:
    """One finished continuation of a prompt, as rewards see it."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    """What the model read, the opening end-of-document token first; a long prompt may have lost its oldest tokens."""
    ids: tuple[int, ...]
    """What it wrote, the end-of-document token included where it ended there."""
    text: str
    """The text of `ids`, up to a stop string."""
    ended: bool
    """Whether it came to an end, instead of being cut off at the length limit."""
