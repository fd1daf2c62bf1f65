"""What a diffusion model says of a text: an upper bound on its negative log-likelihood.

The bound is a mean over times, estimated by a few times for each block, one in each equal part of (0, 1). Which tokens
are hidden is a function of the window's own tokens and the seed, so the same window has the same bound whatever it
is batched with and however often it is asked; what another draw would have given is reported as the estimate's error.

Shapes: B rows, X = T + 1 tokens of a window, N slots, U blocks, K samples.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlm.core.errors import RangeError
from dreamlm.core.evaluation.reading import Reading, read_plainly
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.noise import SCHEDULES
from dreamlm.core.objectives.blocks import Blocks
from dreamlm.core.objectives.diffusion import blocks_of, fill_in
from dreamlm.core.rng import derive_seed

LEAST_SAMPLES = 2
"""Times for each block, at which the spread between them says how far their mean is off."""


@dataclass(frozen=True)
class Bound:
    """Nats of every token of some windows."""

    nll_BT: Float[Tensor, "B T"]
    """By the place of the token that predicts; what an ending document's padding costs counts where it ends."""
    variance_B: Float[Tensor, " B"]
    """Of each window's sum, over draws of the times and of what they hide."""


def bound(
    model: DreamLM,
    tokens_BX: Int[Tensor, "B X"],
    documents_BX: Int[Tensor, "B X"],
    boundaries: bool,
    filler_id: int,
    samples: int,
    seed: int,
    read: Reading = read_plainly,
) -> Bound:
    """The bound on a batch of windows, in double precision.  read: how the clean text goes through the model.

    Cost: one pass over the text, and one for each sample.

    Raises: RangeError for fewer than 2 samples: one alone tells nothing of its own error.

    Source: Arriola et al. 2025, "Block Diffusion", equation 8, in the form of `core.nn.noise`, where schedules agree.
    """
    if samples < LEAST_SAMPLES:
        what = f"{samples} sample does not tell how far the bound's estimate is off"
        raise RangeError(what, where="samples", valid=[f"{LEAST_SAMPLES} and more"])
    schedule = SCHEDULES["linear"]
    blocks = blocks_of(model, tokens_BX, documents_BX, filler_id)
    clean = read(model, tokens_BX, documents_BX, boundaries, records=True)
    length = tokens_BX.shape[1] - 1
    texts = zip(tokens_BX.cpu().numpy(), (documents_BX >= 0).cpu().numpy(), strict=True)
    draws = [_Draws(row[real], seed) for row, real in texts]
    units_B = torch.bincount(blocks.row_U, minlength=len(draws)).tolist()
    time_KU = np.concatenate([one.times(samples, units) for one, units in zip(draws, units_B, strict=True)], axis=1)
    home_BN = _homes(blocks, length)
    nll_BT = torch.zeros(len(draws), length, dtype=torch.float64, device=model.device)
    sum_KB = torch.zeros(samples, len(draws), dtype=torch.float64, device=model.device)
    for number, time_U in enumerate(time_KU):
        count_U = schedule.counts(torch.from_numpy(time_U).to(model.device), blocks.size_U)
        score_BN = np.stack([one.scores(number, length, blocks.unit_BN.shape[1] - length) for one in draws])
        masked_BN = blocks.masked(count_U, torch.from_numpy(score_BN).to(model.device))
        hidden_XD = fill_in(model, blocks, masked_BN, clean).hidden[masked_BN]
        weighed_BN = blocks.importance(count_U, masked_BN, schedule).double()
        weighed_BN[masked_BN] *= model.head.token_nll(hidden_XD, blocks.target_BN[masked_BN]).double()
        nll_BT.scatter_add_(1, home_BN, weighed_BN / samples)
        sum_KB[number] = weighed_BN.sum(dim=1)
    return Bound(nll_BT, sum_KB.var(dim=0) / samples)


class _Draws:
    """The random numbers of a window, which its tokens decide."""

    def __init__(self, tokens_X: npt.NDArray[np.int64], seed: int) -> None:
        digest = hashlib.blake2b(tokens_X.astype("<i8").tobytes(), digest_size=16).hexdigest()
        self._seed = derive_seed(seed, "bound", digest)

    def times(self, samples: int, units: int) -> npt.NDArray[np.float64]:
        """(K, U) times: those of one block lie in K equal parts of (0, 1), in random order."""
        generator = np.random.default_rng(derive_seed(self._seed, "times"))
        parts_UK = generator.permuted(np.tile(np.arange(samples), (units, 1)), axis=1)
        times: npt.NDArray[np.float64] = ((parts_UK + generator.random((units, samples))) / samples).T
        return times

    def scores(self, sample: int, columns: int, padding: int) -> npt.NDArray[np.float64]:
        """One number for each slot of the text and of its padding; more of either change none of the first."""
        counts = {"text": columns, "padding": padding}
        streams = {name: np.random.default_rng(derive_seed(self._seed, name, sample)) for name in counts}
        return np.concatenate([streams[name].random(count) for name, count in counts.items()])


def _homes(blocks: Blocks, length: int) -> Int[Tensor, "B N"]:
    """The column that each slot's loss is counted at: its own, or the last of its document's block for padding."""
    units = len(blocks.size_U) + 1
    own_BT = blocks.unit_BN[:, :length]
    last_U = torch.zeros(units, dtype=torch.int64, device=own_BT.device)
    last_U.scatter_reduce_(0, own_BT.flatten(), blocks.column_BN[:, :length].flatten(), "amax")
    return torch.cat([blocks.column_BN[:, :length], last_U[blocks.unit_BN[:, length:]]], dim=1)
