"""The core model: token embedding, a stack of layers, a final norm and the language-model head.

    for segment in window:  for layer in stack:  signal = layer(signal)

Training, prefill and token-by-token generation are this one path; they differ only in how many tokens come at once
and in what the carry already holds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dreamlm.core.heads.lm import LanguageModelHead
from dreamlm.core.modules.module import CognitiveModule
from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.cache import KeyValueCache
from dreamlm.core.nn.decoder_config import DecoderConfig
from dreamlm.core.nn.initialisation import initialise
from dreamlm.core.nn.norm import build_norm
from dreamlm.core.nn.parts import (
    Layer,
    build_block,
    build_modules,
    in_order,
    mask_vector,
    remembering,
    run,
    run_checkpointed,
)
from dreamlm.core.nn.phase import phases
from dreamlm.core.nn.positions.positions import Positions
from dreamlm.core.nn.signal import Carry, Signal, advance, join
from dreamlm.core.nn.vision.view import NO_PLACES, Sight, View
from dreamlm.core.nn.vision.vision import NoVision, Vision


class DreamLM(nn.Module):
    """A causal decoder that runs segment by segment and hands its state on in an explicit carry."""

    class Config(DecoderConfig):
        def build(self, vocab_size: int) -> "DreamLM":
            """A model with fresh weights, drawn from torch's global generator."""
            return DreamLM(self, vocab_size)

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, config.hidden_size)
        self.positions: Positions = config.positions.build(
            config.hidden_size, config.num_heads, config.head_size, config.num_layers, config.seq_length
        )
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(build_block(config, index) for index in range(config.num_layers))
        self.norm = build_norm(config.norm, config.hidden_size, config.norm_epsilon)
        own_weight = nn.Parameter(torch.empty(vocab_size, config.hidden_size))
        self.head = LanguageModelHead(
            self.embedding.weight if config.tie_embeddings else own_weight, config.logit_soft_cap or math.inf
        )
        initialise(self, config.num_layers)
        self.mask_vector = mask_vector(config.hidden_size) if config.masks else None
        # Built last, so that the trunk's weights are those of the decoder without modules.
        self.cognition = nn.ModuleList(build_modules(config))
        initialise(self.cognition, config.num_layers)
        self.vision = Vision(config.vision, config.hidden_size, config.num_heads) if config.vision else NoVision()
        self._run: Callable[[Layer, Signal], Signal] = run
        if config.stage is not None:
            self.enter(config.stage)

    @property
    def max_positions(self) -> int | None:
        """Positions a document may have; None when there is no limit."""
        return self.positions.max_positions

    @property
    def mask_id(self) -> int:
        """What a model with a mask vector reads where a token is hidden; no row of the embedding has that number."""
        return self.vocab_size

    @property
    def _modules_in_order(self) -> Sequence[CognitiveModule]:
        return cast("Sequence[CognitiveModule]", self.cognition)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def enter(self, stage: Stage) -> None:
        """Go on as a stage of a curriculum asks, and say so in the configuration; weights keep their shapes."""
        for module in self._modules_in_order:
            module.enter(stage)
        self.vision.look(stage.images)
        self.config = self.config.model_copy(update={"stage": stage})

    def checkpoint_activations(self, enabled: bool) -> None:
        """Keep only each layer's input for the backward pass and compute the rest again; same losses and gradients."""
        self._run = run_checkpointed if enabled else run

    def start(self, rows: int, records: bool = True, left_padding: Sequence[int] = ()) -> Carry:
        """The carry before the first token.

        records: False promises that no call will follow, so no layer's state is kept.
        left_padding: how many columns of padding (document -1) will come before each row's first token; padding
        that is not announced counts as tokens where a segment's end is concerned.
        """
        device = self.device
        empty = KeyValueCache.empty(rows, self.config.kv_heads, self.config.head_size, device)
        return Carry(
            tokens=0,
            left_padding=tuple(left_padding) if any(left_padding) else (),
            boundaries=False,
            documents_BP=torch.empty(rows, 0, dtype=torch.int32, device=device),
            last_document_B=torch.full((rows,), -1, dtype=torch.int32, device=device),
            next_position_B=torch.zeros(rows, dtype=torch.int64, device=device),
            states={
                **{f"layers.{index}": empty for index in range(self.config.num_layers)},
                **{module.name: module.start(rows, device) for module in self._modules_in_order},
            },
            records=records,
        )

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"],
        documents_BT: Int[Tensor, "B T"],
        carry: Carry,
        boundaries: bool = True,
        view: View = NO_PLACES,
    ) -> Signal:
        """Hidden vectors after the final norm, and the carry behind these tokens.

        documents_BT: index of each token's document within its row, never decreasing; -1 is padding.
        boundaries: False promises that every row is one document without padding; attention then needs no mask.
        view: what `look` gives for these tokens, where any of them is a place of a picture.
        Cost: O(T * (P + T)) in attention, for P tokens already in the carry.
        """
        return self.finished([*self.segments(tokens_BT, documents_BT, carry, boundaries, view)])

    def look(self, sight: Sight | None) -> View:
        """What the places of a batch show; None when it has no picture.

        Raises: UserMistake when there are pictures and no `vision`.  Cost: one pass of the encoder over all pictures.
        """
        view: View = self.vision(sight)
        return view

    def segments(
        self,
        tokens_BT: Int[Tensor, "B T"],
        documents_BT: Int[Tensor, "B T"],
        carry: Carry,
        boundaries: bool = True,
        view: View = NO_PLACES,
        vectors: bool = True,
    ) -> Iterator[Signal]:
        """The signals of `forward` before the final norm, one for each segment or part of one.

        view: as in `forward`.
        vectors: False promises that nobody looks at them; what only they need of the last layer is not computed.
        """
        begin, end = carry.tokens, carry.tokens + tokens_BT.shape[1]
        records, size = carry.records, self.config.segment if self.cognition else end
        for phase in phases(begin, end, size, carry.left_padding if self.cognition else ()):
            span = slice(phase.begin - begin, phase.end - begin)
            inner = replace(carry, records=records or phase.end < end)
            segment, inner = advance(
                inner,
                documents_BT[:, span].to(torch.int32),
                phase,
                boundaries,
                self.positions,
                self.compute_dtype(),
                self._followed(documents_BT, span.stop, records) if boundaries and self.cognition else None,
            )
            hidden_BSD = self.embed(tokens_BT[:, span], segment.position_BT, view.columns(span))
            signal = self.through(Signal(hidden_BSD, segment, inner), vectors)
            carry = replace(signal.carry, records=records)
            yield replace(signal, carry=carry)

    def _followed(self, documents_BT: Tensor, stop: int, records: bool) -> Bool[Tensor, " B"]:
        """Rows with a real token at column `stop` or later, and where more may come, rows not padded before it."""
        real_BT = documents_BT >= 0
        ahead_B = real_BT[:, stop:].any(dim=1)
        return ahead_B | real_BT[:, stop - 1] if records else ahead_B

    def finished(self, signals: Sequence[Signal]) -> Signal:
        """One signal of several in a row, behind the final norm."""
        joined = join(signals)
        return replace(joined, hidden=self.norm(joined.hidden))

    def embed(
        self, tokens_BT: Int[Tensor, "B T"], position_BT: Int[Tensor, "B T"], view: View = NO_PLACES
    ) -> Float[Tensor, "B T D"]:
        """What the first layer reads; with a mask vector a token may be `mask_id`, with a view a place."""
        text_BT = view.text(tokens_BT)
        if self.mask_vector is None:
            hidden_BTD = self.embedding(text_BT)
        else:
            masked_BT = text_BT == self.mask_id
            hidden_BTD = self.embedding(text_BT.masked_fill(masked_BT, 0))
            hidden_BTD = torch.where(masked_BT[:, :, None], self.mask_vector, hidden_BTD)
        hidden_BTD = view.show(hidden_BTD, tokens_BT)
        embedded: Tensor = self.dropout(self.positions.embed(hidden_BTD, position_BT))
        return embedded

    def through(self, signal: Signal, vectors: bool = True) -> Signal:
        """The signal behind the last layer.  vectors: as in `segments`."""
        for layer in self.stack(vectors):
            signal = self._run(layer, signal)
        return signal

    def stack(self, vectors: bool = True) -> list[Layer]:
        """What a signal passes, one behind the other, of the children as they are now.  vectors: as in `segments`."""
        stack: list[Layer] = [*in_order(self.config, self.layers, self._modules_in_order)]
        return stack if vectors else [*stack[:-1], remembering(self.config, stack[-1])]

    def logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Unnormalised log-probabilities of the next token, in fp32."""
        logits: Tensor = self.head.logits(hidden)
        return logits

    def compute_dtype(self) -> torch.dtype:
        """What attention computes in."""
        device = self.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.embedding.weight.dtype
