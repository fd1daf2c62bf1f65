"""Rotary position embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dreamlm.core.nn.positions.positions import LayerChoice, Placement, Positions, chosen_layers
from dreamlm.core.nn.positions.scaling import ScalingConfig, Unscaled


@dataclass(frozen=True)
class Turn:
    """What layers that share their frequencies multiply with; already times the temperature."""

    cosine: Float[Tensor, "B 1 T K"]
    sine: Float[Tensor, "B 1 T K"]


@final
@dataclass(frozen=True)
class Rotation(Placement):
    """Turns component k together with component k + K/2."""

    turns: Sequence[Turn]
    """One for each layer."""

    def query(self, query_BHTK: Tensor, layer: int) -> Tensor:
        return self._turned(query_BHTK, self.turns[layer])

    def key(self, key_BGTK: Tensor, layer: int) -> Tensor:
        return self._turned(key_BGTK, self.turns[layer])

    def _turned(self, heads_BHTK: Tensor, turn: Turn) -> Tensor:
        first, second = heads_BHTK.chunk(2, dim=-1)
        return heads_BHTK * turn.cosine + torch.cat([-second, first], dim=-1) * turn.sine


@final
class Rotary(Positions):
    """Rotary position embedding, in the half-split layout that `transformers` Llama uses.

    Layers that a scaling leaves out keep the frequencies of training; each set of angles is computed once per segment.

    Source: Su et al. 2021, "RoFormer", section 3.4.
    """

    class Config(Positions.Config):
        type: Literal["rope"] = "rope"
        theta: float = Field(10_000.0, gt=1.0)
        """Base of the geometric series of wavelengths."""
        scaling: ScalingConfig = Unscaled()
        """How a model reads more tokens than `theta` was trained for."""

        def check(self, num_layers: int) -> None:
            chosen = self.scaling.layers_scaled
            wrong = [] if isinstance(chosen, str) else [layer for layer in chosen if layer >= num_layers]
            if wrong:
                raise ValueError(
                    f"positions cannot be re-scaled in layer {wrong[0]}: the layers are 0 to {num_layers - 1}"
                )

        def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "Rotary.Config":
            return self.model_copy(update={"scaling": self.scaling.extended(trained, length, layers)})

        def build(self, hidden_size: int, num_heads: int, num_layers: int, seq_length: int) -> "Rotary":
            return Rotary(self, hidden_size // num_heads, num_layers)

    def __init__(self, config: Config, head_size: int, num_layers: int) -> None:
        super().__init__()
        self.max_positions = None
        plain_K2 = config.theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
        # Kept as plain tensors in fp32: neither bf16 casts nor checkpoints may touch them.
        self._frequencies_K2 = [plain_K2, config.scaling.slowed(plain_K2, config.theta)]
        self._temperatures = (1.0, config.scaling.temperature)
        scaled = set(chosen_layers(config.scaling.layers_scaled, num_layers))
        self._group_of_layer = [int(layer in scaled) for layer in range(num_layers)]

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        return hidden_BTD

    def place(self, position_BT: Tensor, dtype: torch.dtype) -> Placement:
        if self._frequencies_K2[0].device != position_BT.device:
            self._frequencies_K2 = [frequency_K2.to(position_BT.device) for frequency_K2 in self._frequencies_K2]
        turns = {group: self._turn(group, position_BT, dtype) for group in set(self._group_of_layer)}
        return Rotation([turns[group] for group in self._group_of_layer])

    def _turn(self, group: int, position_BT: Tensor, dtype: torch.dtype) -> Turn:
        temperature = self._temperatures[group]
        angle_BTK2 = position_BT[:, :, None].float() * self._frequencies_K2[group]
        angle_B1TK = torch.cat([angle_BTK2, angle_BTK2], dim=-1)[:, None]
        return Turn((angle_B1TK.cos() * temperature).to(dtype), (angle_B1TK.sin() * temperature).to(dtype))
