"""The core model: token embedding, a stack of layers, a final norm and the language-model head.

    for segment in window:  for layer in stack:  signal = layer(signal)

Training, prefill and token-by-token generation are this one path; they differ only in how many tokens come at once
and in what the carry already holds.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamlm.core.config import ConfigModel
from dreamlm.core.heads.lm import LanguageModelHead
from dreamlm.core.nn.attention import Attention
from dreamlm.core.nn.block import Block
from dreamlm.core.nn.cache import KeyValueCache
from dreamlm.core.nn.feedforward import FeedForwardConfig
from dreamlm.core.nn.feedforward.swiglu import SwiGLU
from dreamlm.core.nn.norm import NormName, build_norm
from dreamlm.core.nn.positions import PositionsConfig
from dreamlm.core.nn.positions.positions import Positions
from dreamlm.core.nn.positions.rotary import Rotary
from dreamlm.core.nn.signal import Carry, Signal, advance


class DreamLM(nn.Module):
    """A causal decoder that runs segment by segment and hands its state on in an explicit carry."""

    class Config(ConfigModel):
        hidden_size: int = Field(256, ge=8)
        """Width of the residual stream."""
        num_layers: int = Field(4, ge=1)
        num_heads: int = Field(4, ge=1)
        """Query heads; `hidden_size` must be a multiple, with an even quotient."""
        num_kv_heads: int | None = Field(None, ge=1)
        """Key/value heads, a divisor of `num_heads` (grouped-query attention); default `num_heads`."""
        intermediate_size: int | None = Field(None, ge=8)
        """Width inside the feed-forward; the default depends on its type, rounded up to a multiple of 32."""
        seq_length: int = Field(256, ge=2)
        """Tokens of a training window."""
        segment_length: int | None = Field(None, ge=1)
        """Tokens computed in parallel between two commits of the carry, a divisor of `seq_length`; default all."""
        positions: PositionsConfig = Rotary.Config()
        feed_forward: FeedForwardConfig = SwiGLU.Config()
        norm: NormName = "rmsnorm"
        qk_norm: bool = True
        """RMS-normalise queries and keys per head; a snapshot then exports as Qwen3 instead of Llama."""
        tie_embeddings: bool = True
        """Use the token embedding as the output head too."""
        norm_epsilon: float = Field(1e-5, gt=0)
        dropout: float = Field(0.0, ge=0.0, lt=1.0)
        """Dropout on the embedding and on what each layer adds to the residual stream."""

        @model_validator(mode="after")
        def _sizes_fit(self) -> "DreamLM.Config":
            if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
                raise ValueError(
                    f"hidden_size {self.hidden_size} must be num_heads {self.num_heads} times an even head size"
                )
            if self.num_heads % self.kv_heads:
                raise ValueError(f"num_kv_heads {self.kv_heads} must divide num_heads {self.num_heads}")
            if self.seq_length % self.segment:
                raise ValueError(f"segment_length {self.segment} must divide seq_length {self.seq_length}")
            return self

        @property
        def kv_heads(self) -> int:
            return self.num_kv_heads or self.num_heads

        @property
        def feed_forward_size(self) -> int:
            return self.intermediate_size or 32 * math.ceil(self.feed_forward.default_size(self.hidden_size) / 32)

        @property
        def segment(self) -> int:
            return self.segment_length or self.seq_length

        def build(self, vocab_size: int) -> "DreamLM":
            """A model with fresh weights, drawn from torch's global generator."""
            return DreamLM(self, vocab_size)

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, config.hidden_size)
        self.positions: Positions = config.positions.build(config.hidden_size, config.num_heads, config.seq_length)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_block(config, index) for index in range(config.num_layers))
        self.norm = build_norm(config.norm, config.hidden_size, config.norm_epsilon)
        own_weight = nn.Parameter(torch.empty(vocab_size, config.hidden_size))
        self.head = LanguageModelHead(self.embedding.weight if config.tie_embeddings else own_weight)
        self._run: Callable[[nn.Module, Signal], Signal] = _call
        self._initialise()

    @property
    def max_positions(self) -> int | None:
        """Positions a document may have; None when there is no limit."""
        return self.positions.max_positions

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def checkpoint_activations(self, enabled: bool) -> None:
        """Keep only each layer's input for the backward pass and compute the rest again; same losses and gradients."""
        self._run = _checkpointed if enabled else _call

    def start(self, rows: int, records: bool = True) -> Carry:
        """The carry before the first token. `records=False`: no call will follow, so keep no layer state."""
        head_size = self.config.hidden_size // self.config.num_heads
        empty = KeyValueCache.empty(rows, self.config.kv_heads, head_size, self.device)
        return Carry(
            tokens=0,
            boundaries=False,
            documents_BP=torch.empty(rows, 0, dtype=torch.int32, device=self.device),
            last_document_B=torch.full((rows,), -1, dtype=torch.int32, device=self.device),
            next_position_B=torch.zeros(rows, dtype=torch.int64, device=self.device),
            states={f"layers.{index}": empty for index in range(self.config.num_layers)},
            records=records,
        )

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"],
        documents_BT: Int[Tensor, "B T"],
        carry: Carry,
        boundaries: bool = True,
    ) -> Signal:
        """Hidden vectors after the final norm, and the carry behind these tokens.

        documents_BT: index of each token's document within its row, never decreasing; -1 is padding.
        boundaries: False promises that every row is one document without padding; attention then needs no mask.
        Cost: O(T * (P + T)) in attention, for P tokens already in the carry.
        """
        signals = []
        for span in self._segments(carry.tokens, tokens_BT.shape[1]):
            last = span.stop == tokens_BT.shape[1]
            inner = replace(carry, records=carry.records or not last)
            signal = self._segment(tokens_BT[:, span], documents_BT[:, span].to(torch.int32), inner, boundaries)
            signals.append(signal)
            carry = replace(signal.carry, records=carry.records)
        hidden_BTD = torch.cat([signal.hidden for signal in signals], dim=1) if len(signals) > 1 else signals[0].hidden
        return replace(signals[-1], hidden=self.norm(hidden_BTD), carry=carry)

    def logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Unnormalised log-probabilities of the next token, in fp32."""
        logits: Tensor = self.head.logits(hidden)
        return logits

    def _segments(self, start: int, length: int) -> Iterator[slice]:
        begin = 0
        while begin < length:
            end = min(length, begin + self.config.segment - (start + begin) % self.config.segment)
            yield slice(begin, end)
            begin = end

    def _segment(
        self, tokens_BT: Int[Tensor, "B T"], documents_BT: Int[Tensor, "B T"], carry: Carry, boundaries: bool
    ) -> Signal:
        segment, carry = advance(carry, documents_BT, boundaries, self.positions, self._compute_dtype())
        hidden_BTD = self.dropout(self.positions.embed(self.embedding(tokens_BT), segment.position_BT))
        signal = Signal(hidden_BTD, segment, carry)
        for layer in self.layers:
            signal = self._run(layer, signal)
        return signal

    def _compute_dtype(self) -> torch.dtype:
        device = self.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.embedding.weight.dtype

    @torch.no_grad()
    def _initialise(self) -> None:
        """Normal(0, 0.4/sqrt(fan_in)) matrices; what writes to the residual stream is scaled by 1/sqrt(2 layers).

        Embedding and head: Normal(0, 0.3/sqrt(D)), so that the logits of a fresh model have a deviation of 0.3 and the
        first loss is ln V + 0.045 at any width.  Source: GPT-2's residual scaling (Radford et al. 2019).
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            if name in ("embedding.weight", "head.weight", "positions.table.weight"):
                std = 0.3 / math.sqrt(self.config.hidden_size)
            else:
                std = 0.4 / math.sqrt(parameter.shape[1])
            if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
                std /= math.sqrt(2 * self.config.num_layers)
            parameter.normal_(0.0, std)


def _block(config: DreamLM.Config, index: int) -> Block:
    size, epsilon = config.hidden_size, config.norm_epsilon
    return Block(
        f"layers.{index}",
        build_norm(config.norm, size, epsilon),
        Attention(size, config.num_heads, config.kv_heads, config.qk_norm, config.norm, epsilon),
        build_norm(config.norm, size, epsilon),
        config.feed_forward.build(size, config.feed_forward_size, config.num_layers),
        config.dropout,
    )


def _call(layer: nn.Module, signal: Signal) -> Signal:
    result: Signal = layer(signal)
    return result


def _checkpointed(layer: nn.Module, signal: Signal) -> Signal:
    result: Signal = checkpoint(layer, signal, use_reentrant=False)
    return result
