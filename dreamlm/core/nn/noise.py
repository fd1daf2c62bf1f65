"""How many tokens of a block are masked at a time between 0 (nothing) and 1 (everything), and what each then weighs.

A schedule is the share of masked tokens r(t), growing from 0 at time 0 to 1 at time 1. At a time t, k = ceil(r(t) n) of
a block's n tokens are masked, chosen at random, and each one's cross-entropy weighs 1 / (k P(k)), where P(k) is the
share of times that mask just k. The mean over times is then the same for every schedule, which only looks at other
times more often: the negative evidence lower bound of the block,

    mean over k = 1..n of  n/k * (sum over the k masked tokens of their cross-entropy)

Source: Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models" (MDLM); its integral over time
equals this sum (Ou et al. 2024, "Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions
of Clean Data", section 3.3; Hoogeboom et al. 2022, equation 7).  Departs: theirs masks each token by itself, so that
the number of masked tokens, and with it the sum of the weights, varies; here it does not.

Shapes: U blocks (units), any shape where times or shares are a tensor.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

NoiseName = Literal["linear", "sqrt", "cosine", "exponential", "sigmoid"]

STEEPNESS = 3.0
"""Of the exponential and the sigmoid schedule."""

Curve = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]


@dataclass(frozen=True)
class NoiseSchedule:
    """A growing function from [0, 1] onto [0, 1], and its inverse."""

    rate: Curve
    """Share of masked tokens at a time."""
    time: Curve
    """The time at which a share is reached."""

    def counts(self, time_U: Float[Tensor, " U"], size_U: Int[Tensor, " U"]) -> Int[Tensor, " U"]:
        """How many tokens of each block, of so many, are masked: at least one."""
        share_U = self.rate(time_U.double()) * size_U
        return share_U.ceil().long().clamp(min=1).minimum(size_U)

    def weights(self, count_U: Int[Tensor, " U"], size_U: Int[Tensor, " U"]) -> Float[Tensor, " U"]:
        """What the cross-entropy of a masked token weighs where so many of a block are masked."""
        end_U, begin_U = (self.time(masked.double() / size_U) for masked in (count_U, count_U - 1))
        return (1 / (count_U * (end_U - begin_U))).float()


def _sigmoid_rate(time: Tensor) -> Tensor:
    return (torch.sigmoid(STEEPNESS * (2 * time - 1)) - _LOW) / (1 - 2 * _LOW)


def _sigmoid_time(rate: Tensor) -> Tensor:
    return (torch.logit(rate * (1 - 2 * _LOW) + _LOW) / STEEPNESS + 1) / 2


_LOW = 1 / (1 + math.exp(STEEPNESS))

SCHEDULES: Mapping[NoiseName, NoiseSchedule] = {
    "linear": NoiseSchedule(lambda t: t, lambda r: r),
    "sqrt": NoiseSchedule(torch.sqrt, torch.square),
    "cosine": NoiseSchedule(
        lambda t: 1 - torch.cos(math.pi / 2 * t), lambda r: 2 / math.pi * torch.arccos((1 - r).clamp(max=1))
    ),
    "exponential": NoiseSchedule(
        lambda t: torch.expm1(-STEEPNESS * t) / math.expm1(-STEEPNESS),
        lambda r: -torch.log1p(r * math.expm1(-STEEPNESS)) / STEEPNESS,
    ),
    "sigmoid": NoiseSchedule(_sigmoid_rate, _sigmoid_time),
}
"""`linear`: t. `sqrt`: t^(1/2). `cosine`: 1 - cos(pi t / 2). `exponential`: (1 - e^-3t) / (1 - e^-3). `sigmoid`: the
logistic function from -3 to 3, moved to begin at 0 and end at 1."""


def stratified_times(count: int, device: torch.device) -> Float[Tensor, " U"]:
    """One time in each of `count` equal parts of (0, 1), in random order, all at the same place in their part.

    The mean of a smooth function over them hardly varies between draws. Draws from torch's global generator.
    Source: low-discrepancy sampling, Kingma et al. 2021, "Variational Diffusion Models", appendix I.1.
    """
    offset = torch.rand((), device=device)
    return ((torch.arange(count, device=device) + offset) / count)[torch.randperm(count, device=device)]
