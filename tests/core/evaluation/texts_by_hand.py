"""Texts that nobody generated, as `generate` would hand them over."""

from collections.abc import Sequence

from dreamlm.core.generation.row import Generation


def text(prompt: str, continuation: str) -> Generation:
    return Generation(prompt, continuation, (), "end", -1.0, 0)


def texts(*continuations: str, prompts: Sequence[str] = ("a", "b", "c", "d", "e", "f", "g", "h")) -> list[Generation]:
    """Each behind a prompt of its own, as far as there are prompts."""
    return [text(prompts[number % len(prompts)], one) for number, one in enumerate(continuations)]
