"""Whether the pass that writes answers and the pass that trains on them think alike of their tokens.

One reads its cache token by token, the other reads each answer at once. They are two ways to compute one thing, and an
update learns what it should only as far as they agree. Measured on two cores, in nats at temperature 1:

                                                      of 100 tokens, 99 are nearer than      largest
    rounding, fp32                                    3.8e-6                                 1.5e-5
    rounding, bf16                                    0.030 to 0.047                         0.187
    rounding, bf16, experts that choose otherwise     0.026                                  1.1
    mistakes, fp32: a module that says nothing        0.30                                   0.49
                    one wrong token of the prompt     0.47, 0.56                             1.6, 1.8
                    the first token not read          1.1, 1.3                               5.4, 7.4

Models of 1.1M parameters, and of 1.2M with a stack of thoughts, after 1.5M tokens of training, with logits up to 19
and 15; one of 9.7M after 0.1M tokens; experts of random weights. The largest are those of 39 runs and 1,728
iterations in bf16, of up to 12,288 tokens each (0.06 to 0.10 in the median of iterations), and of 54 iterations in
fp32, all of 1.1M parameters. At temperature 0.5 all was twice as much; moving a policy 1 nat per token from its
reference changed nothing. Rounding grows with the logits, and where something is chosen a hair's breadth decides, so
that some tokens may be anywhere in bf16: the limits leave room for logits four times as large, and for a few tokens
beyond them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.rl.advantages import Floats
from dreamlm.core.training.backend.backend import Backend

LIMITS = {"fp32": 1e-4, "tf32": 0.025, "bf16": 0.2}
"""How far rounding moves a log-probability at temperature 1, in nats, by the format that products are computed in.

tf32 keeps three bits more than bf16; that one is not measured.
"""
FEW_SHARE, FEW = 0.01, 2
"""So many tokens may be further apart."""
FARTHEST = {"fp32": 1e-3, "tf32": math.inf, "bf16": math.inf}
"""But no token by so much, in nats at temperature 1: in fp32 hardly anything is decided by a hair's breadth."""


@dataclass(frozen=True)
class Disagreement:
    """Between two log-probabilities of each token, over all processes."""

    tokens: int
    beyond: int
    """Tokens that are further apart than rounding explains, or whose distance is no number."""
    largest: float
    """In nats."""


def disagreement(one: Sequence[Floats], other: Sequence[Floats], temperature: float, backend: Backend) -> Disagreement:
    """Of two passes over the same answers. Collective."""
    apart_N = np.abs(np.concatenate(one) - np.concatenate(other))
    beyond = len(apart_N) - int((apart_N <= _limit(temperature, backend)).sum())
    largest = [0.0] * backend.world_size
    largest[backend.rank] = float(apart_N.max())
    tokens, all_beyond, *largest = backend.sum([float(len(apart_N)), float(beyond), *largest])
    return Disagreement(int(tokens), int(all_beyond), float(np.max(largest)))


def require_agreement(found: Disagreement, temperature: float, backend: Backend) -> None:
    """Raises: TrainingFailed when rounding and narrow choices do not explain how far apart tokens are."""
    farthest = FARTHEST[_products(backend)] / temperature
    if found.beyond > FEW + FEW_SHARE * found.tokens or not found.largest <= farthest:
        raise TrainingFailed(
            f"writing and training disagree on the log-probability of {found.beyond:,} of {found.tokens:,} tokens by "
            f"more than {_limit(temperature, backend):.2g} nats, and by up to {found.largest:.2g}",
            hint="this is a bug of dreamlm, please report it; rl.ppo.precision=fp32 tells rounding from mistakes",
        )


def _limit(temperature: float, backend: Backend) -> float:
    """Logits are divided by the temperature, and so is what was rounded off them."""
    return LIMITS[_products(backend)] / temperature


def _products(backend: Backend) -> str:
    """The number format of matrix products: `bf16`, `fp32`, or what a GPU makes of the latter where it may."""
    may = torch.get_float32_matmul_precision() != "highest"
    return "tf32" if backend.precision == "fp32" and backend.device.type == "cuda" and may else backend.precision
