"""The answer of positions that re-scale no layer to a request for chosen layers."""

from dreamlm.core.errors import RangeError
from dreamlm.core.nn.positions.positions import LayerChoice


def refuse_layers(kind: str, layers: LayerChoice | None) -> None:
    """Raises: RangeError when layers are named."""
    if layers not in (None, "all"):
        raise RangeError(
            f"positions of type {kind!r} cannot be re-scaled in some layers only: no layer has positions of its own",
            where="model.positions",
            valid=["all"],
            hint="extend without naming layers",
        )
