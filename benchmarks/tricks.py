"""The command line with a decoder that wears tricks of the speed-run literature which dreamlm does not have.

    python benchmarks/tricks.py TRICK[+TRICK ...] train --preset PRESET --run FOLDER
    python benchmarks/tricks.py TRICK[+TRICK ...] eval --run FOLDER

A trial of `recipe.py` names its tricks under "trick". The decoder's own fresh weights stay what they are without.
Source: the training records of "modded-nanogpt" (Jordan et al. 2024 and after), where each of them has its place.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.cli.app import main as command_line
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal


class Trick(nn.Module):
    """What changes the vectors between the embedding and the layers; by itself nothing."""

    def __init__(self, model: DreamLM) -> None:
        super().__init__()

    def embedded(self, hidden_BTD: Tensor, tokens_BT: Tensor, position_BT: Tensor) -> Tensor:
        """What the embedding gives."""
        return hidden_BTD

    def before(self, layer: int, hidden_BTD: Tensor, outputs: list[Tensor]) -> Tensor:
        """What a layer reads.  outputs: the embedding's vectors, then those behind each layer so far."""
        return hidden_BTD


class NormedEmbedding(Trick):
    """Each token's vector is brought to the length that the layers' norms give."""

    def embedded(self, hidden_BTD: Tensor, tokens_BT: Tensor, position_BT: Tensor) -> Tensor:
        return F.rms_norm(hidden_BTD, hidden_BTD.shape[-1:])


class Smear(Trick):
    """Each token's vector takes up the one before it, within a document, by a gate that reads 12 components."""

    def __init__(self, model: DreamLM) -> None:
        super().__init__(model)
        self.gate = nn.Parameter(torch.zeros(12))
        self.strength = nn.Parameter(torch.zeros(1))

    def embedded(self, hidden_BTD: Tensor, tokens_BT: Tensor, position_BT: Tensor) -> Tensor:
        before_BTD = F.pad(hidden_BTD, (0, 0, 1, -1)) * (position_BT > 0)[:, :, None]
        opened_BT = torch.sigmoid(hidden_BTD[:, :, :12] @ self.gate.to(hidden_BTD.dtype))
        return hidden_BTD + self.strength * opened_BT[:, :, None] * before_BTD


class EmbeddingAgain(Trick):
    """Each layer reads a weighted sum of the stream and the embedding; one weight of each for a layer."""

    components = False

    def __init__(self, model: DreamLM) -> None:
        super().__init__(model)
        shape = (len(model.layers), model.config.hidden_size if self.components else 1)
        self.stream, self.embedding = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def before(self, layer: int, hidden_BTD: Tensor, outputs: list[Tensor]) -> Tensor:
        return self.stream[layer] * hidden_BTD + self.embedding[layer] * outputs[0]


class EmbeddingAgainByComponent(EmbeddingAgain):
    """The same with weights of its own for each component."""

    components = True


class EarlyToLate(Trick):
    """A layer of the second half adds what its mirror image in the first half gave."""

    def __init__(self, model: DreamLM) -> None:
        super().__init__(model)
        self.weights = nn.Parameter(torch.ones(len(model.layers)))

    def before(self, layer: int, hidden_BTD: Tensor, outputs: list[Tensor]) -> Tensor:
        layers = len(self.weights)
        if layer <= layers // 2:
            return hidden_BTD
        return hidden_BTD + self.weights[layer] * outputs[layers - layer]


class ValueEmbeddings(Trick):
    """Attention's values, in the first and the last layer, add a vector of the token's own."""

    def __init__(self, model: DreamLM) -> None:
        super().__init__(model)
        self._values = [_ValueWithToken.upon(model, layer) for layer in self.among(len(model.layers))]

    def among(self, layers: int) -> tuple[int, ...]:
        return (0, layers - 1)

    def embedded(self, hidden_BTD: Tensor, tokens_BT: Tensor, position_BT: Tensor) -> Tensor:
        for value in self._values:
            value.tokens_BT = tokens_BT
        return hidden_BTD


class LastValueEmbeddings(ValueEmbeddings):
    """The same in the last layer alone."""

    def among(self, layers: int) -> tuple[int, ...]:
        return (layers - 1,)


class _ValueWithToken(nn.Module):
    """A projection to values, plus a table's row. Its names make the table AdamW's, as the embedding is."""

    tokens_BT: Tensor

    def __init__(self, projection: nn.Linear, vocab_size: int) -> None:
        super().__init__()
        self.weight = projection.weight
        width, hidden_size = projection.weight.shape
        self.table = nn.Parameter(torch.empty(vocab_size, width).normal_(0.0, 0.3 / hidden_size**0.5))

    @classmethod
    def upon(cls, model: DreamLM, layer: int) -> "_ValueWithToken":
        attention = model.layers[layer].attention
        attention.value = cls(attention.value, model.vocab_size)
        return attention.value

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        value_BTK = F.linear(hidden_BTD, self.weight)
        return value_BTK + F.embedding(self.tokens_BT, self.table).to(value_BTK.dtype)


class SilentWriters(Trick):
    """What writes to the residual stream begins at zero."""

    def __init__(self, model: DreamLM) -> None:
        super().__init__(model)
        for block in model.layers:
            nn.init.zeros_(block.attention.output.weight)
            nn.init.zeros_(block.feed_forward.down.weight)


class ComponentGate(Trick):
    """A gate on each component of what attention mixes, instead of on each head; 1 where it has no opinion."""

    def __init__(self, model: DreamLM) -> None:
        super().__init__(model)
        for block in model.layers:
            gated = _GatedOutput(block.attention.output)
            block.attention.output = gated
            block.attention.register_forward_pre_hook(gated.look)


class _GatedOutput(nn.Module):
    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.weight = projection.weight
        self.gate = nn.Linear(*projection.weight.shape, bias=False)
        nn.init.normal_(self.gate.weight, 0.0, 0.4 / projection.weight.shape[1] ** 0.5)

    def look(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._hidden_BTD = inputs[0]

    def forward(self, mixed_BTD: Tensor) -> Tensor:
        return F.linear(mixed_BTD * (2 * torch.sigmoid(self.gate(self._hidden_BTD))), self.weight)


TRICKS: dict[str, type[Trick]] = {
    "normed-embedding": NormedEmbedding,
    "smear": Smear,
    "embedding-again": EmbeddingAgain,
    "embedding-again-by-component": EmbeddingAgainByComponent,
    "early-to-late": EarlyToLate,
    "value-embeddings": ValueEmbeddings,
    "last-value-embeddings": LastValueEmbeddings,
    "silent-writers": SilentWriters,
    "component-gate": ComponentGate,
}


class Tricked(DreamLM):
    """The decoder with some tricks, for windows that are a single segment each."""

    def __init__(self, config: DreamLM.Config, vocab_size: int, tricks: str) -> None:
        super().__init__(config, vocab_size)
        self.tricks = nn.ModuleList(TRICKS[name](self) for name in tricks.split("+"))

    def embed(self, tokens_BT: Tensor, position_BT: Tensor, *rest: Any) -> Tensor:
        hidden_BTD = super().embed(tokens_BT, position_BT, *rest)
        for trick in self.tricks:
            hidden_BTD = trick.embedded(hidden_BTD, tokens_BT, position_BT)
        return hidden_BTD

    def through(self, signal: Signal, vectors: bool = True) -> Signal:
        outputs = [signal.hidden]
        for number, layer in enumerate(self.stack(vectors)):
            hidden_BTD = signal.hidden
            for trick in self.tricks:
                hidden_BTD = trick.before(number, hidden_BTD, outputs)
            signal = self._run(layer, signal.with_hidden(hidden_BTD))
            outputs.append(signal.hidden)
        return signal


def build(tricks: str, config: DreamLM.Config, vocab_size: int) -> DreamLM:
    """A fresh model; without tricks (an empty string) it is the decoder itself."""
    return Tricked(config, vocab_size, tricks) if tricks else DreamLM(config, vocab_size)


def main() -> None:
    tricks = sys.argv.pop(1)
    DreamLM.Config.build = lambda config, vocab_size: build(tricks, config, vocab_size)
    command_line()


if __name__ == "__main__":
    main()
