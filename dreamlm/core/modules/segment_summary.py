"""Memory compression: each segment leaves a few vectors behind, which later segments read.

Shapes: B rows, R rows that write, T tokens, S tokens of a segment, M vectors, D width.
"""

from collections.abc import Mapping
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.module import CognitiveModule, ModuleConfig, Room, Written
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import LearnedQueries, choosing


@final
class SegmentSummary(CognitiveModule):
    """A rolling summary of the document, kept by a gate and taught by what it lets one reconstruct.

    write: learned queries pool the segment; a gate mixes the pooled vectors into the summary.
    read: every token attends to the summary's vectors.
    loss `reconstruction`: mean squared error of the segment's vectors, at unit RMS, decoded from the new summary and
    a place in the segment; knowing nothing costs 1 for each token of a segment that is written for others to read.

    Source: in the line of Rae et al. 2020, "Compressive Transformers" (attention reconstruction).  Departs: the state
    is a few gated vectors instead of a growing memory.
    """

    class Config(ModuleConfig):
        type: Literal["segment_summary"] = "segment_summary"
        num_vectors: int = Field(4, ge=1)
        """Vectors of the summary; with one there is nothing to choose, and nothing that learns to."""
        reconstruction_weight: float = Field(0.05, ge=0.0)

        @property
        def loss_weights(self) -> Mapping[str, float]:
            return {"reconstruction": self.reconstruction_weight}

        def build(self, name: str, room: Room) -> "SegmentSummary":
            return SegmentSummary(name, room, self.num_vectors)

    def __init__(self, name: str, room: Room, num_vectors: int) -> None:
        super().__init__(name)
        size = room.hidden_size
        self.num_vectors, self.size = num_vectors, size
        self.norm = RMSNorm(size, room.norm_epsilon)
        self.pool = LearnedQueries(num_vectors, size, 1, room.norm_epsilon)
        self.pool_key, self.pool_value = _linear(size, size), _linear(size, size)
        self.gate = nn.Linear(2 * size, size)
        self.read_norm = RMSNorm(size, room.norm_epsilon)
        self.read_query, self.read_key = (choosing(num_vectors > 1, size) for _ in range(2))
        self.read_value = _linear(size, size)
        self.residual = _linear(size, size)
        self.place = nn.Parameter(torch.empty(room.segment_length, size))
        self.decode_in, self.decode_out = _linear(2 * size, size), _linear(size, size)

    def blank(self, rows: int, device: torch.device) -> Mapping[str, Tensor]:
        return {"summary": torch.zeros(rows, self.num_vectors, self.size, device=device)}

    def read(self, hidden_BTD: Float[Tensor, "B T D"], memory: Mapping[str, Tensor]) -> Float[Tensor, "B T D"]:
        query_BTD = self.read_query(self.norm(hidden_BTD))
        added: Tensor = self.residual(self._attend(query_BTD, self.read_norm(memory["summary"])))
        return added

    def write(
        self, memory: Mapping[str, Tensor], hidden_RSD: Float[Tensor, "R S D"], own_RS: Bool[Tensor, "R S"]
    ) -> Written:
        normal_RSD = self.norm(hidden_RSD)
        # A row without a token of its own is thrown away by the caller; it must only stay finite.
        mask_R1S = (own_RS | ~own_RS.any(dim=1, keepdim=True))[:, None]
        fresh_RMD = self.pool(self.pool_key(normal_RSD), self.pool_value(normal_RSD), mask_R1S)
        before_RMD = memory["summary"].to(fresh_RMD.dtype)
        keep_RMD = torch.sigmoid(self.gate(torch.cat([before_RMD, fresh_RMD], dim=-1)))
        summary_RMD = keep_RMD * before_RMD + (1 - keep_RMD) * fresh_RMD
        loss_R = self._reconstruction(summary_RMD, hidden_RSD, own_RS)
        return Written({"summary": summary_RMD}, {"reconstruction": loss_R}, {"kept": keep_RMD.mean()})

    def _attend(self, query_BTD: Tensor, summary_BMD: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query_BTD, self.read_key(summary_BMD), self.read_value(summary_BMD))

    def _reconstruction(self, summary_RMD: Tensor, hidden_RSD: Tensor, own_RS: Tensor) -> Float[Tensor, " R"]:
        rows, length, _ = hidden_RSD.shape
        place_RSD = self.place[:length].expand(rows, -1, -1).to(summary_RMD.dtype)
        found_RSD = self._attend(place_RSD, self.read_norm(summary_RMD))
        decoded_RSD = self.decode_out(F.gelu(self.decode_in(torch.cat([found_RSD, place_RSD], dim=-1))))
        wanted_RSD = F.rms_norm(hidden_RSD.detach().float(), (self.size,))
        error_RS = (decoded_RSD.float() - wanted_RSD).square().mean(dim=-1) * own_RS
        mean_R: Tensor = error_RS.sum(dim=1) / own_RS.sum(dim=1).clamp(min=1)
        return mean_R


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)
