"""Rotary position embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dreamlm.core.errors import RangeError
from dreamlm.core.nn.positions.positions import LayerChoice, Placement, Positions, chosen_layers
from dreamlm.core.nn.positions.scaling import Scaling, ScalingConfig, Unscaled


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

    Layers that a scaling leaves out keep the frequencies and the temperature of training, which `scaling_elsewhere`
    holds where they were scaled already. Each set of angles is computed once per segment.

    Source: Su et al. 2021, "RoFormer", section 3.4.
    """

    class Config(Positions.Config):
        type: Literal["rope"] = "rope"
        theta: float = Field(10_000.0, gt=1.0)
        """Base of the geometric series of wavelengths."""
        scaling: ScalingConfig = Unscaled()
        """How a model reads more tokens than `theta` was trained for."""
        scaling_elsewhere: tuple[ScalingConfig, ...] = ()
        """For layers that `scaling` leaves out: the first of these that names a layer holds in it, else none. What an
        extension writes here is what `scaling` was before; a rule of another form keeps its layers, as it is."""

        @model_validator(mode="after")
        def _elsewhere_than_what(self) -> "Rotary.Config":
            if self.scaling_elsewhere and isinstance(self.scaling, Unscaled):
                raise ValueError("scaling_elsewhere is for the layers that a scaling leaves out, and scaling is none")
            return self

        def check(self, num_layers: int) -> None:
            for rule in (self.scaling, *self.scaling_elsewhere):
                chosen = rule.layers_scaled
                wrong = [] if isinstance(chosen, str) else [layer for layer in chosen if layer >= num_layers]
                if wrong:
                    raise ValueError(
                        f"positions cannot be re-scaled in layer {wrong[0]}: the layers are 0 to {num_layers - 1}"
                    )

        def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "Rotary.Config":
            """`scaling` for the longer windows in the layers chosen, and in the others the rules that held there.

            Raises: RangeError for layers in which no rule held, or another one, that could be taken further.
            """
            if not all(self.scaling.continues(rule) for rule in self.scaling_elsewhere):
                _require_held(layers, [self.scaling.layers_scaled])
            elif self.scaling.grows:
                _require_held(layers, [rule.layers_scaled for rule in (self.scaling, *self.scaling_elsewhere)])
            scaling = self.scaling.extended(trained, length, layers)
            return self.model_copy(update={"scaling": scaling, "scaling_elsewhere": self._left_out_by(scaling)})

        def _left_out_by(self, scaling: Scaling) -> tuple[Scaling, ...]:
            """The rules so far, without those that hold in no layer any more."""
            newest: dict[LayerChoice, Scaling] = {}
            for rule in (self.scaling, *self.scaling_elsewhere):
                newest.setdefault(rule.layers_scaled, rule)
            everywhere, gone = scaling.layers_scaled == "all", ((), scaling.layers_scaled)
            return () if everywhere else tuple(rule for chosen, rule in newest.items() if chosen not in gone)

        def rules(self, num_layers: int) -> list[Scaling]:
            """What holds in each layer."""
            rules: list[Scaling] = [Unscaled()] * num_layers
            for rule in (*reversed(self.scaling_elsewhere), self.scaling):
                for layer in chosen_layers(rule.layers_scaled, num_layers):
                    rules[layer] = rule
            return rules

        def build(self, hidden_size: int, num_heads: int, head_size: int, num_layers: int, seq_length: int) -> "Rotary":
            return Rotary(self, head_size, num_layers)

    def __init__(self, config: Config, head_size: int, num_layers: int) -> None:
        super().__init__()
        self.max_positions = None
        plain_K2 = config.theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
        rules = config.rules(num_layers)
        groups = list(dict.fromkeys(rules))
        # Kept as plain tensors in fp32: neither bf16 casts nor checkpoints may touch them.
        self._frequencies_K2 = [rule.slowed(plain_K2, config.theta) for rule in groups]
        self._temperatures = [rule.temperature for rule in groups]
        self._group_of_layer = [groups.index(rule) for rule in rules]

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        return hidden_BTD

    def place(self, position_BT: Tensor, dtype: torch.dtype) -> Placement:
        if self._frequencies_K2[0].device != position_BT.device:
            self._frequencies_K2 = [frequency_K2.to(position_BT.device) for frequency_K2 in self._frequencies_K2]
        turns = [self._turn(group, position_BT, dtype) for group in range(len(self._frequencies_K2))]
        return Rotation([turns[group] for group in self._group_of_layer])

    def _turn(self, group: int, position_BT: Tensor, dtype: torch.dtype) -> Turn:
        temperature = self._temperatures[group]
        angle_BTK2 = position_BT[:, :, None].float() * self._frequencies_K2[group]
        angle_B1TK = torch.cat([angle_BTK2, angle_BTK2], dim=-1)[:, None]
        return Turn((angle_B1TK.cos() * temperature).to(dtype), (angle_B1TK.sin() * temperature).to(dtype))


def _require_held(layers: LayerChoice | None, held: Sequence[LayerChoice]) -> None:
    """Refuses layers, unless they are known to be among those in which a rule held."""
    if layers is None or layers in held or "all" in held:
        return
    listed = {layer for one in held if not isinstance(one, str) for layer in one}
    if not isinstance(layers, str) and listed.issuperset(layers):
        return
    valid = [one if isinstance(one, str) else ", ".join(map(str, one)) for one in held if one]
    raise RangeError(
        "positions were re-scaled in some layers only, and a rule that was not in force cannot be taken further"
        if valid
        else "positions have a rule that is in force in no layer, and cannot be taken further in any",
        where="rescale_layers",
        valid=valid,
        hint="leave it out, to extend the model in the layers that are re-scaled now" if valid else "leave it out",
    )
