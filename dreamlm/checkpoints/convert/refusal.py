"""What no stock architecture can be told, refused by name."""

from dreamlm.core.errors import UserMistake


def inexpressible(feature: str, where: str) -> UserMistake:
    """The refusal of an export, naming what a model has and the stock architectures have not."""
    return UserMistake(
        f"none of Llama, Qwen3 and Qwen3Next can express this model's {feature}",
        where=where,
        hint="a snapshot folder itself is complete: load it with dreamlm",
    )
