"""A small module that listens to the stages of a curriculum, and a decoder's configuration that takes it.

Shapes: B rows, R rows that write, T tokens, S tokens of a segment, D width, N dreams used.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from dreamlm.core.modules.module import CognitiveModule, ModuleConfig, Room, Written
from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.decoder import DreamLM

MOST = 12
"""Rows of the table of dreams."""


@final
class Staged(CognitiveModule):
    """Remembers the first rows of a table, mixed hop by hop; what is behind the first hop has a vector of its own."""

    class Config(ModuleConfig):
        type: Literal["staged"] = "staged"
        has_stages: ClassVar[bool] = True

        def objections(self, stage: Stage) -> list[tuple[str, str]]:
            rows = stage.dream_length * stage.num_dream_sequences
            return [("dream_length", f"needs {rows} rows, the table has {MOST}")] if rows > MOST else []

        def build(self, name: str, room: Room) -> "Staged":
            return Staged(name, room.hidden_size)

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name)
        self.rows, self.hops = MOST, 1
        self.table = nn.Parameter(torch.randn(MOST, size))
        self.mix = nn.Linear(size, size)
        self.further = nn.Parameter(torch.randn(size))
        self.residual = nn.Linear(size, size, bias=False)

    def blank(self, rows: int, device: torch.device) -> Mapping[str, Tensor]:
        return {"dreams": torch.zeros(rows, self.rows, self.table.shape[1], device=device)}

    def enter(self, stage: Stage) -> None:
        self.rows = stage.dream_length * stage.num_dream_sequences
        self.hops = stage.graph_reasoning_hops

    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        scores_BTN = hidden_BTD @ memory["dreams"].transpose(1, 2)
        return self.residual(scores_BTN.softmax(dim=-1) @ memory["dreams"])

    def write(self, memory: Mapping[str, Tensor], hidden_RSD: Tensor, own_RS: Tensor) -> Written:
        mean_RD = (hidden_RSD * own_RS[:, :, None]).sum(dim=1) / own_RS.sum(dim=1).clamp(min=1)[:, None]
        dreams_RND = self.table[: self.rows] * mean_RD[:, None]
        for hop in range(self.hops):
            dreams_RND = dreams_RND + torch.tanh(self.mix(dreams_RND) + (self.further if hop else 0.0))
        return Written({"dreams": dreams_RND})


class StagedConfig(DreamLM.Config):
    """A decoder's configuration with the module, which is in no registry."""

    modules: tuple[Staged.Config, ...] = (Staged.Config(),)
