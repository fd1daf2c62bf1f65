"""A stack of thought tensors: what each segment of a document leaves behind for those that follow.

    write   learned queries, one for each row of a thought and moved by the thought before, attend to the segment;
            what they find becomes the new thought, between -1 and 1, on top of the stack
    read    all thoughts of the document at once become one vector each, which know of one another and of their age;
            every token attends to all of them

Shapes: B rows, R rows that write, T tokens, S tokens of a segment, D width, M thoughts of a stack, H rows of a thought,
C numbers of each of them, K width of a head.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.module import CognitiveModule, ModuleConfig, Room, Stack, Written
from dreamlm.core.modules.thought_losses import thought_losses
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import LearnedQueries, attend, choosing

_Rows = Annotated[int, Field(ge=2)]
_Size = Annotated[int, Field(ge=1)]


@final
class ThoughtStack(CognitiveModule):
    """Conditions a segment on the newest thoughts of its document, which are trained by what the segment costs.

    The gradient of a segment's loss reaches the thoughts that it reads, or the newest `thought_bptt` of them, the
    segments that wrote them, and through what those had read the thoughts before, as far back as the window goes.

    Source: attention to pooled vectors of the past as in Rae et al. 2020, "Compressive Transformers"; learned queries
    as in Lee et al. 2019, "Set Transformer".  Departs: each segment makes one small tensor, of its own width.
    """

    class Config(ModuleConfig):
        type: Literal["thought_stack"] = "thought_stack"
        thought_dims: tuple[_Rows, _Size, _Size] = (16, 16, 8)
        """Shape of a thought; its first dimension is how many queries make it, 2 at least."""
        stack_size: int = Field(8, ge=1)
        """Thoughts that are kept of a document; with one there is nothing to choose, and nothing that learns to."""
        thought_dropout: float = Field(0.15, ge=0.0, lt=1.0)
        """Share of a thought's numbers that a segment does not see, in training."""
        thought_noise: float = Field(0.05, ge=0.0)
        """Standard deviation of what is added to the numbers that a segment sees, in training."""
        thought_bptt: int | None = Field(None, ge=1)
        """Newest thoughts that a segment's loss trains directly, not by way of later ones; default all it reads."""
        consistency_weight: float = Field(0.1, ge=0.0)
        diversity_weight: float = Field(0.01, ge=0.0)
        sparsity_weight: float = Field(0.01, ge=0.0)
        contrastive_weight: float = Field(0.02, ge=0.0)
        contrastive_temperature: float = Field(0.1, gt=0.0)
        next_thought_weight: float = Field(0.05, ge=0.0)

        @property
        def loss_weights(self) -> Mapping[str, float]:
            return {
                "consistency": self.consistency_weight,
                "diversity": self.diversity_weight,
                "sparsity": self.sparsity_weight,
                "contrastive": self.contrastive_weight,
                "next_thought": self.next_thought_weight,
            }

        def build(self, name: str, room: Room) -> "ThoughtStack":
            return ThoughtStack(name, room, self)

    def __init__(self, name: str, room: Room, config: Config) -> None:
        super().__init__(name)
        size, several = room.hidden_size, config.stack_size > 1
        self.config, self.num_heads = config, room.num_heads
        self.height, self.width = config.thought_dims[0], math.prod(config.thought_dims[1:])
        # Reading: thoughts to vectors, vectors to tokens.
        self.row_in = nn.Parameter(torch.empty(size, self.width))
        self.row_place = nn.Parameter(torch.empty(self.height, size))
        self.pool_query = nn.Parameter(torch.empty(1, size))
        self.age = nn.Parameter(torch.empty(config.stack_size, size))
        self.slot_norm = RMSNorm(size, room.norm_epsilon)
        self.slot_query, self.slot_key = (choosing(several, size) for _ in range(2))
        self.slot_value = _linear(size, size)
        self.read_norm = RMSNorm(size, room.norm_epsilon) if several else nn.Identity()
        self.read_slot_norm = RMSNorm(size, room.norm_epsilon)
        self.read_query, self.read_key = (choosing(several, size) for _ in range(2))
        self.read_value = _linear(size, size)
        self.residual = _linear(size, size)
        # Writing: tokens to a thought.
        self.write_norm = RMSNorm(size, room.norm_epsilon)
        self.write_rows = LearnedQueries(self.height, size, room.num_heads, room.norm_epsilon)
        self.write_last = _linear(self.width, size)
        self.write_key, self.write_value = _linear(size, size), _linear(size, size)
        self.write_out = _linear(size, self.width)
        # What the losses need.
        self.expect_in, self.expect_out = _linear(self.width, size), _linear(size, self.width)

    def blank(self, rows: int, device: torch.device) -> Mapping[str, Tensor]:
        return {}

    def stacks(self) -> Mapping[str, Stack]:
        return {"thoughts": Stack(self.config.stack_size, self.config.thought_dims)}

    def read(self, hidden_BTD: Float[Tensor, "B T D"], memory: Mapping[str, Tensor]) -> Float[Tensor, "B T D"]:
        slots_BMD, there_BM = self.encode(self._disturbed(self._near(memory["thoughts"])), memory["thoughts.count"])
        query_BTD = self.read_query(self.read_norm(hidden_BTD))
        slots_BMD = self.read_slot_norm(slots_BMD)
        keys = self.read_key(slots_BMD), self.read_value(slots_BMD)
        found_BTD = attend(query_BTD, *keys, self.num_heads, there_BM[:, None])
        added: Tensor = self.residual(found_BTD)
        return added

    def encode(
        self, thoughts_BM: Float[Tensor, "B M *dims"], count_B: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]:
        """One vector for each thought of a stack, the newest last, and which of them are there; all are where none is.

        Cost: O(M * C * (H * heads + D)) for the thoughts, O(M^2 * D) among them.
        """
        slots_BMD = self.pooled(thoughts_BM.flatten(3)) + self.age.flip(0)
        there_BM = self._there(count_B)
        normal_BMD = self.slot_norm(slots_BMD)
        keys = self.slot_key(normal_BMD), self.slot_value(normal_BMD)
        return slots_BMD + attend(self.slot_query(normal_BMD), *keys, self.num_heads, there_BM[:, None]), there_BM

    def pooled(self, thoughts_BMHC: Float[Tensor, "B M H C"]) -> Float[Tensor, "B M D"]:
        """What a learned query finds among the rows of each thought, every row being mapped to a vector with a place.

        Attention to `x W + place` as keys and values, but W is applied to the query before and to the mixture behind
        it, which is the same and H times less work.  N heads.
        """
        heads, size = self.num_heads, self.row_in.shape[0] // self.num_heads
        width_NKC, query_NK = self.row_in.view(heads, size, -1), self.pool_query.view(heads, size)
        place_HNK = self.row_place.view(-1, heads, size)
        asked_NC = torch.einsum("nk,nkc->nc", query_NK, width_NKC)
        score_BMNH = torch.einsum("bmhc,nc->bmnh", thoughts_BMHC, asked_NC)
        score_BMNH = score_BMNH + torch.einsum("hnk,nk->nh", place_HNK, query_NK)
        share_BMNH = (score_BMNH * size**-0.5).softmax(dim=3)
        mixed_BMNC = torch.einsum("bmnh,bmhc->bmnc", share_BMNH, thoughts_BMHC.to(share_BMNH.dtype))
        found_BMNK = torch.einsum("bmnc,nkc->bmnk", mixed_BMNC, width_NKC.to(mixed_BMNC.dtype))
        found_BMNK = found_BMNK + torch.einsum("bmnh,hnk->bmnk", share_BMNH, place_HNK.to(share_BMNH.dtype))
        return found_BMNK.flatten(2)

    def write(
        self, memory: Mapping[str, Tensor], hidden_RSD: Float[Tensor, "R S D"], own_RS: Bool[Tensor, "R S"]
    ) -> Written:
        thoughts_RM, count_R = self._near(memory["thoughts"]), memory["thoughts.count"]
        has_last_R = count_R > 0
        last_RHC = torch.where(has_last_R[:, None, None], thoughts_RM[:, -1].flatten(2), 0)
        normal_RSD = self.write_norm(hidden_RSD)
        asked_RHD = self.write_last(last_RHC.to(normal_RSD.dtype))
        # A row without a token of its own is thrown away by the caller; it must only stay finite.
        seen_R1S = (own_RS | ~own_RS.any(dim=1, keepdim=True))[:, None]
        found_RHD = self.write_rows(self.write_key(normal_RSD), self.write_value(normal_RSD), seen_R1S, asked_RHD)
        thought_RHC = torch.tanh(self.write_out(found_RHD).float())
        expected_RHC = self.expect_out(F.gelu(self.expect_in(last_RHC.to(normal_RSD.dtype)))).float()
        losses = thought_losses(
            thought_RHC,
            expected_RHC,
            thoughts_RM.flatten(2),
            self._there(count_R) & has_last_R[:, None],
            own_RS.any(dim=1),
            self.config.contrastive_temperature,
        )
        probes = {"norm": thought_RHC.detach().flatten(1).norm(dim=1).mean()}
        return Written(
            losses=losses, probes=probes, pushed={"thoughts": thought_RHC.view(-1, *self.config.thought_dims)}
        )

    def _near(self, thoughts_BM: Tensor) -> Tensor:
        """The thoughts, those before the newest `thought_bptt` without a gradient of their own."""
        reach = self.config.thought_bptt
        if reach is None or reach >= self.config.stack_size:
            return thoughts_BM
        return torch.cat([thoughts_BM[:, :-reach].detach(), thoughts_BM[:, -reach:]], dim=1)

    def _disturbed(self, thoughts_BM: Tensor) -> Tensor:
        if not self.training:
            return thoughts_BM
        noise_BM = torch.randn_like(thoughts_BM) * self.config.thought_noise
        return F.dropout(thoughts_BM + noise_BM, self.config.thought_dropout)

    def _there(self, count_B: Int[Tensor, " B"]) -> Bool[Tensor, "B M"]:
        """Which places of a stack hold a thought; all where none does, so that attention stays finite."""
        place_M = torch.arange(self.config.stack_size, 0, -1, device=count_B.device)
        return (place_M <= count_B[:, None]) | (count_B == 0)[:, None]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)
