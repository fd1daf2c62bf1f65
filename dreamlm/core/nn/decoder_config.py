"""What a decoder is made of, and which settings go together."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, model_validator

from dreamlm.core.config import ConfigModel, choice
from dreamlm.core.modules import AnyModule
from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.attention import AttentionActivation
from dreamlm.core.nn.diffusion import BlockDiffusion
from dreamlm.core.nn.feedforward import FeedForwardConfig
from dreamlm.core.nn.feedforward.swiglu import SwiGLU
from dreamlm.core.nn.norm import NormName
from dreamlm.core.nn.positions import PositionsConfig
from dreamlm.core.nn.positions.alibi import ALiBi
from dreamlm.core.nn.positions.rotary import Rotary
from dreamlm.core.nn.vision import AnyVision
from dreamlm.core.types import ImageForm


class DecoderConfig(ConfigModel):
    """Sizes, parts and modules of a `DreamLM`."""

    hidden_size: int = Field(256, ge=8)
    """Width of the residual stream."""
    num_layers: int = Field(4, ge=1)
    num_heads: int = Field(4, ge=1)
    """Query heads; `hidden_size` must be a multiple."""
    num_kv_heads: int | None = Field(None, ge=1)
    """Key/value heads, a divisor of `num_heads` (grouped-query attention); default `num_heads`."""
    head_dim: int | None = Field(None, ge=2, multiple_of=2)
    """Width of a head; default `hidden_size` over `num_heads`, which then must be even."""
    intermediate_size: int | None = Field(None, ge=8)
    """Width inside the feed-forward; the default depends on its type, rounded up to a multiple of 32."""
    seq_length: int = Field(256, ge=2)
    """Tokens of a training window."""
    segment_length: int | None = Field(None, ge=1)
    """Tokens after which modules write what later tokens read, a divisor of `seq_length`; default all."""
    positions: PositionsConfig = Rotary.Config()
    attention_activation: AttentionActivation = "softmax"
    """What makes weights of attention scores; `sparsemax` gives most tokens exactly none, and is slower."""
    attention_gate: bool = False
    """Let each token weigh what each head brings it; exports as Qwen3Next, without `qk_norm` not at all."""
    feed_forward: FeedForwardConfig = SwiGLU.Config()
    norm: NormName = "rmsnorm"
    qk_norm: bool = True
    """RMS-normalise queries and keys per head; a snapshot then exports as Qwen3 instead of Llama."""
    tie_embeddings: bool = True
    """Use the token embedding as the output head too."""
    logit_soft_cap: float | None = Field(None, gt=0)
    """c bends logits to c * tanh(logits / c), so that none exceeds c; default no cap."""
    norm_epsilon: float = Field(1e-5, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout on the embedding and on what each layer adds to the residual stream."""
    modules: tuple[AnyModule, ...] = ()
    """Cognitive modules; they need at least two segments in a window."""
    diffusion: Annotated[BlockDiffusion | None, choice("block_diffusion")] = None
    """Fill in whole blocks of masked tokens instead of predicting one token after another."""
    mask_vector: bool = False
    """Have a vector for hidden tokens, by which `train.augmentation` drops some; diffusion has one."""
    vision: AnyVision | None = None
    """Read pictures: each takes up some places before its text; default text alone."""
    stage: Stage | None = None
    """Settings that hold instead of the modules' own; `train.curriculum` sets them, snapshots keep them."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "DecoderConfig":
        if found := [*self._misfits()]:
            raise ValueError("; ".join(found))
        self.positions.check(self.num_layers)
        for one in self.modules:
            one.check(self.hidden_size)
        if self.stage and (found := [what for _, what in self.objections(self.stage)]):
            raise ValueError("; ".join(found))
        if self.vision:
            self.vision.check(self.seq_length)
        return self

    def _misfits(self) -> Iterator[str]:
        """What does not fit together, as far as it shows without asking the parts."""
        if self.hidden_size % self.num_heads or self.head_size % 2:
            yield f"hidden_size {self.hidden_size} must be num_heads {self.num_heads} times an even head size"
        if self.num_heads % self.kv_heads:
            yield f"num_kv_heads {self.kv_heads} must divide num_heads {self.num_heads}"
        if self.seq_length % self.segment:
            yield f"segment_length {self.segment} must divide seq_length {self.seq_length}"
        if self.modules and self.segment == self.seq_length:
            yield f"modules need several segments: set segment_length below seq_length {self.seq_length}"
        if self.modules and self.segment == 1:
            yield "modules need segments of 2 tokens or more: of a single one there is nothing to choose"
        if wrong := [one.after for one in self.modules if not 0 <= (one.after or 0) < self.num_layers]:
            yield f"a module cannot sit after layer {wrong[0]}: the layers are 0 to {self.num_layers - 1}"
        if self.segment % self.block:
            yield f"diffusion.block_size {self.block} must divide the segment of {self.segment} tokens"
        if self.vision and self.diffusion:
            yield (
                "vision needs a model that predicts one token after another, and diffusion fills in blocks: "
                "leave out one of the two"
            )
        if self.diffusion and isinstance(self.positions, ALiBi.Config):
            yield "positions alibi have a penalty for the past only, and diffusion also looks ahead"

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def feed_forward_size(self) -> int:
        return self.intermediate_size or 32 * math.ceil(self.feed_forward.default_size(self.hidden_size) / 32)

    @property
    def segment(self) -> int:
        return self.segment_length or self.seq_length

    @property
    def block(self) -> int:
        """Tokens that are written at once."""
        return 1 if self.diffusion is None else self.diffusion.block_size or self.segment

    @property
    def sized_diffusion(self) -> BlockDiffusion | None:
        """`diffusion` with the size of its blocks, which a model keeps when its windows or segments change."""
        return self.diffusion and self.diffusion.model_copy(update={"block_size": self.block})

    @property
    def fills_blocks(self) -> bool:
        """Whether several tokens are written at once: all that is known of a text's likelihood then is a bound."""
        return self.block > 1

    @property
    def image_form(self) -> ImageForm | None:
        """How pictures are taken; None by a model without eyes."""
        return self.vision.form if self.vision else None

    @property
    def masks(self) -> bool:
        """Whether the model can read a token that is hidden."""
        return self.mask_vector or self.fills_blocks

    @property
    def has_stages(self) -> bool:
        """Whether a stage of a curriculum changes anything."""
        return self.image_form is not None or any(one.has_stages for one in self.modules)

    def objections(self, stage: Stage) -> list[tuple[str, str]]:
        """(setting, what is wrong with it) where a stage asks for what the modules cannot do."""
        return [objection for one in self.modules for objection in one.objections(stage)]

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Full weight of every objective by name: the next token, what the parts add. Reports are unweighted."""
        seen = self.vision.loss_weights if self.vision else {}
        return {"token": 1.0, **self.feed_forward.loss_weights, **seen} | {
            f"{name}.{key}": weight
            for name, one in zip(self.module_names, self.modules, strict=True)
            for key, weight in one.loss_weights.items()
        }

    def loss_factors(self, progress: float) -> Mapping[str, float]:
        """What weights are multiplied with when that share of the planned steps is done; only those that change."""
        return {
            f"{name}.{key}": one.loss_factor(progress)
            for name, one in zip(self.module_names, self.modules, strict=True)
            if one.loss_start or one.loss_ramp
            for key in one.loss_weights
        }

    @property
    def module_names(self) -> tuple[str, ...]:
        """A module's type, numbered from the second of its kind on."""
        seen: Counter[str] = Counter()
        names = []
        for one in self.modules:
            seen[one.type] += 1
            names.append(one.type if seen[one.type] == 1 else f"{one.type}_{seen[one.type]}")
        return tuple(names)
