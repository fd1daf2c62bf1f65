"""How the loss of held-out text is measured: exactly, token after token, or as a diffusion model's bound.

Shapes: B rows, T targets of a window.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from dreamlm.core.evaluation.bound import bound
from dreamlm.core.evaluation.reading import Reading, read_plainly
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import sight_of
from dreamlm.core.objectives.targets import targets_of
from dreamlm.core.types import Batch

BOUND_SAMPLES = 4
"""Times at which a diffusion model's bound looks at each block, unless somebody asks for others."""


@dataclass(frozen=True)
class WindowLosses:
    """Nats of the targets of some windows."""

    nll_BT: npt.NDArray[np.float64]
    """0 where there is no real target."""
    real_BT: npt.NDArray[np.bool_]
    variance_B: npt.NDArray[np.float64]
    """Of each window's sum where it is an estimate, else 0."""
    parity_error: float = 0.0
    """Largest difference per token, on the first window, to `torch.nn.functional.cross_entropy` over whole logits."""


class Likelihood(ABC):
    """A way to measure; a window's losses are the same whatever it is batched with."""

    @abstractmethod
    def is_bound(self, model: DreamLM) -> bool:
        """Whether the losses estimate an upper bound on the model's, and are not themselves those."""

    @abstractmethod
    def losses(self, model: DreamLM, batch: Batch, check: bool) -> WindowLosses:
        """The losses of a batch.  check: compute the first window's plainly as well, where that can be done."""


@final
class NextToken(Likelihood):
    """What a causal model thinks of each token after those before it."""

    def __init__(self, read: Reading = read_plainly) -> None:
        self._read = read

    def is_bound(self, model: DreamLM) -> bool:
        return False

    def losses(self, model: DreamLM, batch: Batch, check: bool) -> WindowLosses:
        assert model.config.diffusion is None, "a diffusion model's clean path predicts nothing"
        tokens_BX = torch.from_numpy(batch.tokens).to(model.device)
        documents_BX = torch.from_numpy(batch.documents).to(model.device)
        view = model.look(sight_of(batch, model.device))
        signals = self._read(model, tokens_BX, documents_BX, boundaries=_several(batch), records=False, view=view)
        hidden_BTD = model.finished(signals).hidden
        target_BT = targets_of(tokens_BX, documents_BX)
        nll_BT = model.head.token_nll(hidden_BTD.flatten(0, 1), target_BT.flatten()).view(target_BT.shape)
        parity_error = 0.0
        if check:
            plain_T = F.cross_entropy(model.logits(hidden_BTD[0]), target_BT[0], ignore_index=-1, reduction="none")
            parity_error = float((plain_T - nll_BT[0]).abs().max())
        exact_B = np.zeros(len(tokens_BX), np.float64)
        return WindowLosses(nll_BT.cpu().double().numpy(), (target_BT >= 0).cpu().numpy(), exact_B, parity_error)


@final
class DiffusionBound(Likelihood):
    """An upper bound on what a diffusion model thinks of each token; see `core.evaluation.bound`."""

    def __init__(
        self, filler_id: int, samples: int = BOUND_SAMPLES, seed: int = 0, read: Reading = read_plainly
    ) -> None:
        """filler_id: see `objectives.blocks`.  samples: times for each block, at least 2."""
        self._filler_id, self._samples, self._seed, self._read = filler_id, samples, seed, read

    def is_bound(self, model: DreamLM) -> bool:
        return model.config.fills_blocks

    def losses(self, model: DreamLM, batch: Batch, check: bool) -> WindowLosses:
        tokens_BX = torch.from_numpy(batch.tokens).to(model.device)
        documents_BX = torch.from_numpy(batch.documents).to(model.device)
        how = (self._filler_id, self._samples, self._seed, self._read)
        found = bound(model, tokens_BX, documents_BX, _several(batch), *how)
        real_BT = (targets_of(tokens_BX, documents_BX) >= 0).cpu().numpy()
        return WindowLosses(found.nll_BT.cpu().numpy(), real_BT, found.variance_B.cpu().numpy())


NEXT_TOKEN = NextToken()


def likelihood_of(
    model: DreamLM, filler_id: int, samples: int = BOUND_SAMPLES, seed: int = 0, read: Reading = read_plainly
) -> Likelihood:
    """How a model's held-out loss is measured.  read: how the text goes through the model."""
    return NextToken(read) if model.config.diffusion is None else DiffusionBound(filler_id, samples, seed, read)


def _several(batch: Batch) -> bool:
    """Whether a row holds anything but one document."""
    return bool((batch.documents != 0).any())
