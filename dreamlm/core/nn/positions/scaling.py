"""How rotary frequencies change when a model reads more tokens than it was trained on: the typed union is the registry.

Shapes: K2 is half of a head's width, one frequency for each pair of components.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dreamlm.core.config import ConfigModel, choice
from dreamlm.core.nn.positions.positions import LayerChoice


class Scaling(ConfigModel, ABC):
    """A rule that slows rotary frequencies down, in all layers or in some."""

    grows: ClassVar[bool] = False
    """Whether the rule for longer windows multiplies the factor so far: then it can follow only where one held."""

    @property
    @abstractmethod
    def layers_scaled(self) -> LayerChoice:
        """Where the rule holds."""

    @property
    @abstractmethod
    def temperature(self) -> float:
        """Multiplies queries and keys, so that attention stays as sharp over more tokens."""

    @abstractmethod
    def slowed(self, frequency_K2: Float[Tensor, " K2"], theta: float) -> Float[Tensor, " K2"]:
        """The new frequencies, given theta ** (-2k / K) for k = 0, 1, ..., K/2 - 1, in radians per token."""

    @abstractmethod
    def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "Scaling":
        """The rule for windows of `length` tokens, given that this one held in training on windows of `trained`.

        layers: where it is to hold; None is where it did.
        """

    def continues(self, other: "Scaling") -> bool:
        """Whether `extended` may have made this rule of the other one: it has the same form and reaches as far."""
        own, others = (rule.model_dump(exclude={"layers"}) for rule in (self, other))
        return others.pop("factor", 1.0) <= own.pop("factor", 1.0) and own == others


@final
class Unscaled(Scaling):
    """The frequencies of training, whatever the length."""

    type: Literal["none"] = "none"

    @property
    def layers_scaled(self) -> LayerChoice:
        return ()

    @property
    def temperature(self) -> float:
        return 1.0

    def slowed(self, frequency_K2: Tensor, theta: float) -> Tensor:
        return frequency_K2

    def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "YaRN":
        return YaRN(factor=length / trained, original_length=trained, layers="all" if layers is None else layers)


@final
class LinearScaling(Scaling):
    """All positions divided by one factor.  Source: Chen et al. 2023, "position interpolation"."""

    grows = True

    type: Literal["linear"] = "linear"
    factor: float = Field(ge=1.0)
    """New length over the length of training."""
    layers: LayerChoice = "all"
    """Layers whose positions are re-scaled: all, lower_half, upper_half, or a list of numbers from 0."""

    @property
    def layers_scaled(self) -> LayerChoice:
        return self.layers

    @property
    def temperature(self) -> float:
        return 1.0

    def slowed(self, frequency_K2: Tensor, theta: float) -> Tensor:
        return frequency_K2 / self.factor

    def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "LinearScaling":
        factor = self.factor * length / trained
        return self.model_copy(update={"factor": factor, "layers": self.layers if layers is None else layers})


@final
class YaRN(Scaling):
    """Slow rotations are divided by the factor, fast ones kept, with a ramp between; attention gets a temperature.

    A pair that turns more than `beta_fast` times within the length of training tells neighbours apart and is kept;
    one that turns less than `beta_slow` times would reach angles never seen and is interpolated.

    Source: Peng et al. 2023, "YaRN", sections 3.2 to 3.4.
    """

    type: Literal["yarn"] = "yarn"
    factor: float = Field(ge=1.0)
    """New length over `original_length`."""
    original_length: int = Field(ge=2)
    """Tokens of a window in the training that the frequencies come from."""
    layers: LayerChoice = "all"
    """Layers whose positions are re-scaled: all, lower_half, upper_half, or a list of numbers from 0."""
    beta_fast: float = Field(32.0, gt=0.0)
    """Turns within `original_length` above which a frequency is kept."""
    beta_slow: float = Field(1.0, gt=0.0)
    """Turns within `original_length` below which a frequency is divided by the factor."""

    @model_validator(mode="after")
    def _fast_is_not_slower(self) -> "YaRN":
        if self.beta_fast < self.beta_slow:
            raise ValueError(f"beta_fast {self.beta_fast} must not be below beta_slow {self.beta_slow}")
        return self

    @property
    def layers_scaled(self) -> LayerChoice:
        return self.layers

    @property
    def temperature(self) -> float:
        return 0.1 * math.log(self.factor) + 1.0

    def slowed(self, frequency_K2: Tensor, theta: float) -> Tensor:
        pairs = len(frequency_K2)
        first = max(math.floor(self._pair_turning(self.beta_fast, theta, pairs)), 0)
        last = max(min(math.ceil(self._pair_turning(self.beta_slow, theta, pairs)), 2 * pairs - 1), first)
        # A ramp without width would divide by zero; this one ends before the next pair.
        width = last - first or 1e-3
        interpolated_K2 = ((torch.arange(pairs, dtype=torch.float32) - first) / width).clamp(0.0, 1.0)
        return frequency_K2 * (1.0 - interpolated_K2) + frequency_K2 / self.factor * interpolated_K2

    def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "YaRN":
        """A factor that reaches further than the new windows stays: the model was trained with it."""
        factor = max(length / self.original_length, self.factor)
        return self.model_copy(update={"factor": factor, "layers": self.layers if layers is None else layers})

    def _pair_turning(self, turns: float, theta: float, pairs: int) -> float:
        """Number of the pair, as a real number, that turns so many times within `original_length`."""
        return pairs * math.log(self.original_length / (2 * math.pi * turns)) / math.log(theta)


@final
class Llama3Scaling(Scaling):
    """Slow rotations are divided by the factor, fast ones kept; between, in proportion to how often they turn.

    Source: Grattafiori et al. 2024, "The Llama 3 Herd of Models", as Meta's code of Llama 3.1 computes it.
    """

    grows = True

    type: Literal["llama3"] = "llama3"
    factor: float = Field(ge=1.0)
    """By what slow rotations are divided; nothing binds it to the lengths."""
    original_length: int = Field(ge=2)
    """Tokens of a window in the training that the frequencies come from."""
    layers: LayerChoice = "all"
    """Layers whose positions are re-scaled: all, lower_half, upper_half, or a list of numbers from 0."""
    beta_fast: float = Field(4.0, gt=0.0)
    """Turns within `original_length` above which a frequency is kept."""
    beta_slow: float = Field(1.0, gt=0.0)
    """Turns within `original_length` below which a frequency is divided by the factor."""

    @model_validator(mode="after")
    def _fast_is_faster(self) -> "Llama3Scaling":
        if self.beta_fast <= self.beta_slow:
            slow = f"beta_slow {self.beta_slow} (low_freq_factor)"
            raise ValueError(f"beta_fast {self.beta_fast} (high_freq_factor) must be above {slow}")
        return self

    @property
    def layers_scaled(self) -> LayerChoice:
        return self.layers

    @property
    def temperature(self) -> float:
        return 1.0

    def slowed(self, frequency_K2: Tensor, theta: float) -> Tensor:
        turns_K2 = self.original_length * frequency_K2 / (2 * math.pi)
        kept_K2 = ((turns_K2 - self.beta_slow) / (self.beta_fast - self.beta_slow)).clamp(0.0, 1.0)
        return frequency_K2 * kept_K2 + frequency_K2 / self.factor * (1.0 - kept_K2)

    def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "Llama3Scaling":
        factor = self.factor * length / trained
        return self.model_copy(update={"factor": factor, "layers": self.layers if layers is None else layers})


ScalingConfig = Annotated[LinearScaling | Llama3Scaling | Unscaled | YaRN, Field(discriminator="type"), choice("yarn")]
