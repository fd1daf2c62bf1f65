"""Rotary positions in the words of stock transformers configurations."""

from collections.abc import Mapping
from typing import Any

from dreamlm.checkpoints.convert.refusal import inexpressible
from dreamlm.core.errors import UserMistake

_OWN_KEYS = {
    "default": {},
    "linear": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
    },
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "high_freq_factor": "beta_fast",
        "low_freq_factor": "beta_slow",
    },
}
"""What dreamlm calls the options of a scaling, by `rope_type`."""
_IMPLIED = {"partial_rotary_factor": 1.0, "truncate": True}
"""Options with the one value that dreamlm has."""


def stock_rope(positions: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of a stock config.json that say what `model.positions` of type `rope` says.

    Raises: UserMistake when a scaling does not hold for all layers, which no stock architecture knows.
    """
    theta, scaling = positions["theta"], positions.get("scaling", {"type": "none"})
    if scaling["type"] == "none":
        # Both spellings: transformers 5 reads rope_parameters, version 4 reads rope_theta and rope_scaling.
        return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    if scaling["layers"] != "all" and positions.get("scaling_elsewhere"):
        raise inexpressible(f"positions re-scaled in layers {scaling['layers']}, and by another rule elsewhere", where)
    if scaling["layers"] != "all":
        raise inexpressible(f"positions re-scaled in layers {scaling['layers']} only", where)
    kind = scaling["type"]
    rule = {"rope_type": kind, **{stock: scaling[own] for stock, own in _OWN_KEYS[kind].items()}}
    return {"rope_theta": theta, "rope_scaling": rule, "rope_parameters": {**rule, "rope_theta": theta}}


def own_rope(parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`model.positions` for the `rope_parameters` of a stock configuration, as transformers 5 completes them.

    Raises: UserMistake naming a scaling, or an option of one, that dreamlm does not have.
    """
    # transformers leaves the older name of rope_type, `type`, beside the newer one.
    given = {key: value for key, value in parameters.items() if value is not None and key != "type"}
    kind, theta = given.pop("rope_type"), given.pop("rope_theta", None)
    if theta is None:
        raise UserMistake("the model's configuration lacks rope_theta, the base of its wavelengths", where=where)
    if kind not in _OWN_KEYS:
        raise _not_ours(f"rope_type {kind}", where)
    scaling = {own: given.pop(stock) for stock, own in _OWN_KEYS[kind].items() if stock in given}
    if others := [f"{kind} {key} {value}" for key, value in given.items() if _IMPLIED.get(key) != value]:
        raise _not_ours(", ".join(others), where)
    return {"type": "rope", "theta": theta, "scaling": {"type": "none" if kind == "default" else kind, **scaling}}


def _not_ours(feature: str, where: str) -> UserMistake:
    return UserMistake(f"a dreamlm decoder cannot express this model's {feature}", where=where)
