"""The module that dreams: from a segment to roles, to dreams, to a graph of them, to what later tokens read."""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from dreamlm.core.errors import UserMistake
from dreamlm.core.modules.dreaming.edges import FixedEdgeTypes, LearnedEdgeTypes
from dreamlm.core.modules.dreaming.expert import DreamExpert
from dreamlm.core.modules.dreaming.generator import CrossExpertAttention, DreamGenerator, NoExchange, Turns
from dreamlm.core.modules.dreaming.probes import probes
from dreamlm.core.modules.dreaming.readers import AttentionReader, GateReader
from dreamlm.core.modules.dreaming.reasoner import DreamGraphReasoner, GatedMemory, Residual
from dreamlm.core.modules.dreaming.roles import RolePooling
from dreamlm.core.modules.module import CognitiveModule, ModuleConfig, Room, Written
from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.moe.dispatch import Experts
from dreamlm.core.nn.moe.gate import NoisyTopKGate
from dreamlm.core.roles import ROLES

_ROOM = 8
"""Steps of a dream, and dreams, that there are places for unless more are asked for."""


@final
class Dreaming(CognitiveModule):
    """Conditions a segment on what the segment before it, and the memory of those before, made the model dream.

    Cost: nothing before the first segment is complete; that of its parts for each segment that another follows, which
    stands beside 12 * S * D^2 in each layer of the decoder. A dream costs its experts K * layers * 36 * L * C^2.
    """

    class Config(ModuleConfig):
        type: Literal["dreaming"] = "dreaming"
        num_dream_sequences: int = Field(4, ge=1)
        """Dreams of a segment."""
        dream_length: int = Field(5, ge=1)
        """Steps of a dream, each of an action, what it is about, and its result. The only step of the only dream is a
        graph without edges, in which nothing is reasoned."""
        graph_reasoning_hops: int = Field(3, ge=1)
        """How often messages go along the edges between steps; all hops share their weights."""
        num_experts: int = Field(4, ge=1)
        """Experts that can dream; a single one dreams everything, without a gate."""
        moe_top_k: int = Field(2, ge=1)
        """Experts that dream each dream; the others do not compute."""
        moe_noise_std: float = Field(0.1, ge=0.0)
        """Scale of the noise on the gate's logits in training; 0 has none."""
        use_gate: bool = True
        """Let a gate choose the experts of a dream by what it is to be about; otherwise the first dream has the first
        `moe_top_k` of them, the second the next, always and in equal parts."""
        load_balance_loss_weight: float = Field(0.01, ge=0.0)
        """Weight of the loss `balance`, which is about 1 when all experts are used alike, for each token of a segment
        that is written."""
        expert_num_layers: int = Field(2, ge=1)
        """Transformer blocks of an expert."""
        expert_num_heads: int = Field(8, ge=1)
        """Heads of attention in experts, among them (cross-expert attention), and where roles are pooled from tokens; a
        divisor of the dream's width."""
        use_cross_expert_attention: bool = True
        """Let experts hear what the others dream at the same step, before the gate's weights mix them."""
        use_learned_edges: bool = True
        """Find the types of each edge from the nodes it joins; otherwise steps of a dream are joined by temporal edges,
        dreams by spatial ones. With one type there is nothing to find, and nothing that learns it."""
        num_edge_types: int = Field(4, ge=1)
        """Types of edges: temporal, spatial, causal, abstract, and then as many as wanted without a name."""
        use_node_memory: bool = True
        """Let nodes keep what they were told by a gate, and on into the next segment of the document; otherwise
        messages are added up and forgotten."""
        graph_num_heads: int = Field(8, ge=1)
        """Heads of attention in the graph, and where `read` "gate" pools its nodes; a divisor of the dream's width."""
        read: Literal["attention", "gate"] = "attention"
        """How tokens read: each attends to all nodes, or lets in what it wants of all nodes pooled."""
        dream_size: int | None = Field(None, ge=8)
        """Width of the vectors in dreams; default `hidden_size`."""
        max_dream_length: int | None = Field(None, ge=1)
        """Steps that a stage of a curriculum can ask for; default 8, or `dream_length` if that is more."""
        max_dream_sequences: int | None = Field(None, ge=1)
        """Dreams that a stage can ask for; default 8, or `num_dream_sequences` if that is more."""

        has_stages: ClassVar[bool] = True

        @model_validator(mode="after")
        def _sizes_fit(self) -> "Dreaming.Config":
            if self.moe_top_k > self.num_experts:
                raise ValueError(f"moe_top_k {self.moe_top_k} cannot exceed num_experts {self.num_experts}")
            if idle := self._idle(self.num_dream_sequences):
                raise ValueError(idle)
            lacks = "a second expert" if self.use_gate else "use_gate"
            for name in () if self.gated else ("moe_noise_std", "load_balance_loss_weight"):
                if getattr(self, name) not in (0.0, type(self).model_fields[name].default):
                    raise ValueError(f"without {lacks} there is nothing that {name} could do; set it to 0")
            own = {"dream_length": self.dream_length, "num_dream_sequences": self.num_dream_sequences}
            if found := self._beyond(own):
                raise ValueError("; ".join(f"{setting} {own[setting]}: {what}" for setting, what in found))
            return self

        @property
        def gated(self) -> bool:
            """Whether a gate chooses experts."""
            return self.use_gate and self.num_experts > 1

        @property
        def longest(self) -> int:
            return self.max_dream_length or max(_ROOM, self.dream_length)

        @property
        def most_dreams(self) -> int:
            return self.max_dream_sequences or max(_ROOM, self.num_dream_sequences)

        @property
        def loss_weights(self) -> Mapping[str, float]:
            return {"balance": self.load_balance_loss_weight} if self.gated else {}

        def check(self, hidden_size: int) -> None:
            size = self.dream_size or hidden_size
            for name in ("expert_num_heads", "graph_num_heads"):
                if size % getattr(self, name):
                    raise ValueError(
                        f"dreaming: {name} {getattr(self, name)} must divide the width of dreams, {size}; "
                        "set it, or dream_size, which is hidden_size by default"
                    )

        def objections(self, stage: Stage) -> list[tuple[str, str]]:
            sizes = {"dream_length": stage.dream_length, "num_dream_sequences": stage.num_dream_sequences}
            idle = self._idle(stage.num_dream_sequences)
            return [*self._beyond(sizes), *([("num_dream_sequences", idle)] if idle else [])]

        def _idle(self, dreams: int) -> str:
            """What is wrong when experts take turns and there are not enough turns; empty when nothing is."""
            turns = dreams * self.moe_top_k
            if self.use_gate or self.num_experts <= turns:
                return ""
            return (
                f"without use_gate {dreams} dreams of moe_top_k {self.moe_top_k} experts each have {turns} of "
                f"num_experts {self.num_experts}: the others would never dream"
            )

        def _beyond(self, sizes: Mapping[str, int]) -> list[tuple[str, str]]:
            limits = {
                "dream_length": ("max_dream_length", self.longest),
                "num_dream_sequences": ("max_dream_sequences", self.most_dreams),
            }
            return [
                (name, f"dreaming has places for at most {limits[name][1]}; raise its {limits[name][0]} to {wanted}")
                for name, wanted in sizes.items()
                if wanted > limits[name][1]
            ]

        def build(self, name: str, room: Room) -> "Dreaming":
            return Dreaming(name, room, self)

    shown = frozenset({"roles", "dreams", "gate", "edges"})

    def __init__(self, name: str, room: Room, config: Config) -> None:
        super().__init__(name)
        size, epsilon = config.dream_size or room.hidden_size, room.norm_epsilon
        self.config, self.size = config, size
        self.num_dreams, self.length = config.num_dream_sequences, config.dream_length
        self.hops = config.graph_reasoning_hops
        heads = config.expert_num_heads
        self.pooling = RolePooling(room.hidden_size, room.segment_length, size, heads, epsilon)
        experts = (
            DreamExpert(size, heads, config.expert_num_layers, config.longest, epsilon)
            for _ in range(config.num_experts)
        )
        self.generator = DreamGenerator(
            size,
            config.most_dreams,
            NoisyTopKGate(len(ROLES) * size, config.num_experts, config.moe_top_k, config.moe_noise_std)
            if config.gated
            else Turns(config.num_experts, config.moe_top_k),
            Experts(experts, config.moe_top_k),
            CrossExpertAttention(size, heads, epsilon) if config.use_cross_expert_attention else NoExchange(),
            epsilon,
        )
        num_types = config.num_edge_types
        learned = config.use_learned_edges and num_types > 1
        self.reasoner = DreamGraphReasoner(
            size,
            num_types,
            LearnedEdgeTypes(size, num_types) if learned else FixedEdgeTypes(num_types),
            GatedMemory(size) if config.use_node_memory else Residual(),
            config.graph_num_heads,
            epsilon,
        )
        self.reader = (
            AttentionReader(room.hidden_size, room.num_heads, size, epsilon)
            if config.read == "attention"
            else GateReader(room.hidden_size, config.graph_num_heads, size, epsilon)
        )

    def enter(self, stage: Stage) -> None:
        """Dream in other numbers from now on.  Raises: UserMistake when there are no places for so many."""
        if found := self.config.objections(stage):
            setting, what = found[0]
            raise UserMistake(f"{self.name} cannot have {setting} {getattr(stage, setting)}", hint=what)
        self.num_dreams, self.length = stage.num_dream_sequences, stage.dream_length
        self.hops = stage.graph_reasoning_hops

    def blank(self, rows: int, device: torch.device) -> Mapping[str, Tensor]:
        """`reasoning` is what tokens read, `node_memory` what nodes keep; the others are to be looked at:

        roles   (B, 3, C) vectors of the roles of the last segment
        dreams  (B, N, L, 3, C) those of every step
        gate    (B, N, E) what each expert's part of a dream weighs, 0 where it was not chosen
        edges   (B, G, G, Y) shares of the types of the edge from one node to another, 0 where there is none
        """
        dreams, length, types = self.num_dreams, self.length, self.config.num_edge_types
        nodes = dreams * length
        shapes = {
            "reasoning": (nodes, self.size),
            "roles": (len(ROLES), self.size),
            "dreams": (dreams, length, len(ROLES), self.size),
            "gate": (dreams, self.config.num_experts),
            "edges": (nodes, nodes, types),
        }
        if self.config.use_node_memory:
            shapes["node_memory"] = (nodes, self.size)
        return {key: torch.zeros(rows, *shape, device=device) for key, shape in shapes.items()}

    def read(self, hidden_BTD: Float[Tensor, "B T D"], memory: Mapping[str, Tensor]) -> Float[Tensor, "B T D"]:
        added: Tensor = self.reader(hidden_BTD, memory["reasoning"])
        return added

    def write(
        self, memory: Mapping[str, Tensor], hidden_RSD: Float[Tensor, "R S D"], own_RS: Bool[Tensor, "R S"]
    ) -> Written:
        real_R = own_RS.any(dim=1)
        roles_R3C = self.pooling(hidden_RSD, own_RS)
        dreams = self.generator(roles_R3C, real_R, self.num_dreams, self.length)
        before_RGC = memory.get("node_memory", torch.zeros_like(memory["reasoning"]))
        reasoned = self.reasoner(dreams.steps_RNL3C, before_RGC, self.hops)
        nodes = before_RGC.shape[1]
        kept = {
            "reasoning": reasoned.nodes_RGC,
            "roles": roles_R3C.detach(),
            "dreams": dreams.steps_RNL3C.detach(),
            "gate": dreams.gate_RNE.detach(),
            "edges": reasoned.edges.laid_out(reasoned.share_RXY.detach(), nodes),
        }
        if self.config.use_node_memory:
            kept["node_memory"] = reasoned.memory_RGC
        losses = {"balance": dreams.routing.balance.expand(len(hidden_RSD))} if self.config.gated else {}
        return Written(kept, losses, probes(dreams, reasoned, real_R))
