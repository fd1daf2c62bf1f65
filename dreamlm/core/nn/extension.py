"""A trained model made to read longer windows than it was trained on.

What that takes depends on how the model places its tokens: a learned table is stretched, rotary frequencies get a
scaling (`positions.scaling`), ALiBi and no positions at all need nothing. A diffusion model keeps the size of its
blocks. The result is an ordinary configuration and ordinary weights: they can be trained further, saved, and extended
again.
"""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError
from torch import Tensor

from dreamlm.core.errors import RangeError
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.positions.learned import stretched
from dreamlm.core.nn.positions.positions import LayerChoice

TABLE = "positions.table.weight"
Config = TypeVar("Config", bound=DreamLM.Config)


def extended(
    config: Config, weights: Mapping[str, Tensor], length: int, layers: LayerChoice | None = None
) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and weights of the same model for windows of `length` tokens; its own length changes nothing.

    layers: which layers see re-scaled positions, while others keep theirs; None is those re-scaled before, or all.
    Raises: RangeError when the length or the layers do not fit the model.
    """
    if length < config.seq_length:
        raise RangeError(
            f"a model for windows of {config.seq_length} tokens cannot be extended to {length}",
            where="extend_max_seq_len",
            valid=[f"{config.seq_length} and more"],
        )
    if length == config.seq_length:
        return config, dict(weights)
    named = layers if isinstance(layers, tuple) else ()
    if beyond := [layer for layer in named if layer >= config.num_layers]:
        raise RangeError(
            f"positions cannot be re-scaled in layer {beyond[0]}",
            where="rescale_layers",
            valid=[f"0 to {config.num_layers - 1}"],
        )
    positions = config.positions.extended(config.seq_length, length, layers)
    sized = config.model_copy(update={"diffusion": config.sized_diffusion})
    values = sized.model_dump() | {"seq_length": length, "positions": positions.model_dump()}
    try:
        longer = type(config).model_validate(values)
    except ValidationError as error:
        reasons = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise RangeError(f"the model cannot be extended: {reasons}", where="extend_max_seq_len") from error
    stretch = {TABLE: stretched(weights[TABLE], length)} if TABLE in weights else {}
    return longer, {**weights, **stretch}
