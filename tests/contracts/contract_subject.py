"""What a contract is about: a small model, inputs for it, and ways to run it.

Shapes: B rows, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from contract_pictures import pictured, words
from torch import Tensor, nn

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry, Signal
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.objective import Losses

VOCAB = 31
LENGTH = 16
"""Tokens of a window; a segment has 4."""
SAME = 1e-5
"""Two logits of the same shape of input, whose sums may run in another order."""
CLOSE = 1e-4
"""Two logits of differently cut input in fp32."""


@dataclass(frozen=True)
class Subject:
    """A configuration that must keep every contract."""

    config: DreamLM.Config
    baseline: DreamLM.Config | None = None
    """The same without what the subject is about."""
    objective: Callable[[DreamLM, float], nn.Module] = CausalObjective
    head: Callable[[DreamLM], nn.Module] | None = None
    """Makes the head that the objective trains beside the model, as its `own_head`."""

    def fresh(self, training: bool, seed: int = 0) -> DreamLM:
        """A model as it would begin to learn."""
        model = build(self.config, seed)
        if self.head is not None:
            model.own_head = self.head(model)
        return model.train(training)

    def random(self, training: bool, seed: int = 0) -> DreamLM:
        """A model with random weights everywhere: a weight that starts at zero hides what is behind it."""
        return randomised(self.fresh(training, seed), seed)

    def losses(self, model: DreamLM, ids_BX: Tensor, documents_BX: Tensor, seed: int = 5) -> Losses:
        torch.manual_seed(seed)
        tokens_BX, sight = pictured(self.config, ids_BX, VOCAB)
        losses: Losses = self.objective(model, 0.0)(tokens_BX, documents_BX, True, *sight)
        return losses

    @property
    def answers(self) -> int:
        """How many ids a target may be."""
        return words(self.config, VOCAB)

    def step_loss(self, losses: Losses) -> Tensor:
        """What training takes the gradient of."""
        weighted = [self.config.loss_weights[name] * loss for name, loss in losses.objectives.items()]
        return torch.stack(weighted).sum() / losses.tokens


def build(config: DreamLM.Config, seed: int) -> DreamLM:
    torch.manual_seed(seed)
    return config.build(VOCAB)


@torch.no_grad()
def randomised(model: DreamLM, seed: int) -> DreamLM:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.add_(0.3 * noise)
        else:
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
    return model


def tokens(rows: int, length: int = LENGTH, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def other(ids: Tensor) -> Tensor:
    """Another token for each."""
    return (ids + 7) % VOCAB


def one_document(ids: Tensor) -> Tensor:
    return torch.zeros_like(ids, dtype=torch.int32)


def packed(*lengths: int) -> list[int]:
    """The documents of a row, by their lengths."""
    return [index for index, length in enumerate(lengths) for _ in range(length)]


def run(
    model: DreamLM,
    ids: Tensor,
    documents: Tensor | None = None,
    carry: Carry | None = None,
    boundaries: bool = True,
    seed: int = 5,
) -> tuple[Tensor, Carry]:
    """Logits and the carry behind them; random parts draw what belongs to the seed."""
    torch.manual_seed(seed)
    start = model.start(len(ids)) if carry is None else carry
    shown, sight = pictured(model.config, ids, VOCAB)
    own = one_document(ids) if documents is None else documents
    signal: Signal = model(shown, own, start, boundaries, model.look(*sight or [None]))
    return model.logits(signal.hidden), signal.carry


def logits(
    model: DreamLM,
    ids: Tensor,
    documents: Tensor | None = None,
    carry: Carry | None = None,
    boundaries: bool = True,
) -> Tensor:
    with torch.no_grad():
        return run(model, ids, documents, carry, boundaries)[0]


def draws_numbers(model: DreamLM) -> bool:
    """Whether the logits are random, so that inputs of different shape cannot be compared."""
    ids = tokens(2)
    with torch.no_grad():
        return not torch.equal(run(model, ids, seed=1)[0], run(model, ids, seed=2)[0])


def spans(cuts: Sequence[int]) -> Iterator[slice]:
    begin = 0
    for length in cuts:
        yield slice(begin, begin + length)
        begin += length


def apart(first: Tensor, second: Tensor) -> float:
    """The largest difference; infinite when a number is not one."""
    difference = (first.detach() - second.detach()).abs().max().item() if first.numel() else 0.0
    return difference if math.isfinite(difference) else math.inf


def differ_in_every_row(first: Tensor, second: Tensor) -> bool:
    return bool(((first - second).flatten(1).abs().amax(dim=1) > SAME).all())
