"""Rotary positions in the words of stock transformers configurations."""

from collections.abc import Mapping
from typing import Any

from dreamlm.core.errors import UserMistake


def stock_rope(positions: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of a stock config.json that say what `model.positions` of type `rope` says.

    Raises: UserMistake when a scaling holds for some layers only, which no stock architecture knows.
    """
    theta, scaling = positions["theta"], positions.get("scaling", {"type": "none"})
    if scaling["type"] == "none":
        # Both spellings: transformers 5 reads rope_parameters, version 4 reads rope_theta and rope_scaling.
        return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    if scaling["layers"] != "all":
        raise UserMistake(
            f"neither Llama nor Qwen3 can express this model's positions re-scaled in layers {scaling['layers']} only",
            where=where,
            hint="a snapshot folder itself is complete: load it with dreamlm",
        )
    rule = {"rope_type": scaling["type"], "factor": scaling["factor"]}
    if scaling["type"] == "yarn":
        rule |= {"original_max_position_embeddings": scaling["original_length"]}
        rule |= {name: scaling[name] for name in ("beta_fast", "beta_slow")}
    return {"rope_theta": theta, "rope_scaling": rule, "rope_parameters": {**rule, "rope_theta": theta}}
