"""From logits to a token: temperature, top-k, nucleus, and one uniform number per row.

Shapes: R rows, V vocabulary, K candidates.
"""

from typing import Literal, final

import torch
from jaxtyping import Float, Int
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from dreamlm.core.config import ConfigModel

SHORTLIST = 256
"""Tokens looked at before a nucleus sorts the whole vocabulary, which costs as much as a small model's step."""
COLDEST = 1e-30
"""Colder temperatures count as this one: fp32, in which logits are divided, may take what is far below for 0."""


class Denoising(ConfigModel):
    """How a diffusion model fills in a block; other models pay no heed."""

    steps: int | None = Field(None, ge=1)
    """Steps for a block; default those of the model, or one for each token."""
    confidence: Literal["probability", "entropy"] = "probability"
    """What makes a proposal sure: the probability of the likeliest token, or a low entropy."""
    final_temperature: float = Field(1.0, ge=0.0, le=1.0)
    """What the temperature is multiplied by in the last step of a block; it falls evenly from 1."""


@final
class Sampler:
    """Chooses the next token of every row; rows do not influence one another."""

    class Config(ConfigModel):
        temperature: float = Field(0.8, ge=0.0, le=100.0)
        """Divides the logits; 0 takes the most probable token."""
        top_k: int = Field(0, ge=0)
        """Choose among the k most probable tokens; 0 is no limit, 1 is greedy."""
        top_p: float = Field(0.95, gt=0.0, le=1.0)
        """Choose among the fewest tokens whose probabilities reach this sum; the one that crosses it stays in."""
        greedy: bool = False
        """Always take the most probable token; temperature, top_k and top_p then mean nothing."""
        no_repeat_ngram: int = Field(0, ge=0, le=1_000_000)
        """No n-gram of this length occurs twice; 0 is off. The end of a document is never blocked."""
        ngram_scope: Literal["all", "output"] = "all"
        """Where an n-gram may have occurred before: in prompt and output, or in the output alone."""
        max_new_tokens: int = Field(128, ge=1)
        """The text ends after this many tokens."""
        min_new_tokens: int = Field(0, ge=0)
        """The document may not end before this many tokens; a stop string still ends the text."""
        stop: tuple[str, ...] = ()
        """Strings that end the text; it is cut exactly before them."""
        seed: int = Field(0, ge=0)
        """Each prompt draws from its own generator, derived from this seed and the prompt's number."""
        rows: int = Field(16, ge=1, le=1_000_000)
        """Prompts written at once."""
        denoising: Denoising = Denoising()

        @field_validator("stop")
        @classmethod
        def _stops_are_text(cls, stops: tuple[str, ...]) -> tuple[str, ...]:
            if "" in stops:
                raise ValueError("a stop string must not be empty: it would end every text at once")
            return stops

        @field_validator("min_new_tokens")
        @classmethod
        def _lengths_fit(cls, least: int, others: ValidationInfo) -> int:
            most = others.data.get("max_new_tokens", least)  # absent when it is a mistake itself
            if least > most:
                raise ValueError(f"{least} is above max_new_tokens, {most}")
            return least

        @property
        def draws(self) -> bool:
            """Whether choosing takes chance at all."""
            return not self.greedy and self.temperature > 0 and self.top_k != 1

        def build(self) -> "Sampler":
            return Sampler(self)

    def __init__(self, config: Config) -> None:
        self.config = config

    def choose(self, logits_RV: Float[Tensor, "R V"], uniform_R: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
        """The next token of every row; uniform_R in [0, 1) decides, and is not looked at when nothing is drawn."""
        if not self.config.draws:
            return logits_RV.argmax(dim=-1)
        return draw(self.probabilities(logits_RV), uniform_R)

    def probabilities(self, logits_RV: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """The distribution that `choose` draws from; 0 for what top_k or top_p leave out. For temperature > 0.

        Source: nucleus sampling, Holtzman et al. 2020, section 3.1; top-k is applied first.
        """
        # The largest becomes 0, so that a tiny temperature cannot overflow.
        scaled_RV = (logits_RV - logits_RV.amax(dim=-1, keepdim=True)) / max(self.config.temperature, COLDEST)
        if 0 < self.config.top_k < scaled_RV.shape[-1]:
            scaled_RV = _only(scaled_RV, scaled_RV.topk(self.config.top_k).indices)
        probability_RV = scaled_RV.softmax(dim=-1)
        if self.config.top_p < 1.0:
            probability_RV = nucleus(probability_RV, self.config.top_p)
        return probability_RV


def nucleus(probability_RV: Float[Tensor, "R V"], top_p: float) -> Float[Tensor, "R V"]:
    """The most probable tokens up to and with the one whose probability makes their sum reach top_p; not renormalised.

    Equally probable tokens stay or go together, so the result depends on no order of sorting.
    """
    largest_RK = probability_RV.topk(min(SHORTLIST, probability_RV.shape[-1])).values
    if bool((largest_RK.sum(dim=-1, dtype=torch.float64) < top_p).any()):
        largest_RK = probability_RV.sort(dim=-1, descending=True).values
    before_RK = largest_RK.cumsum(dim=-1, dtype=torch.float64) - largest_RK
    # Logits that are not finite have no crossing; whoever takes the token reports them.
    crossing_R1 = ((before_RK < top_p).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    return probability_RV * (probability_RV >= largest_RK.gather(-1, crossing_R1))


def draw(weight_RV: Float[Tensor, "R V"], uniform_R: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    """One index per row, with probability proportional to its weight, by inverting the distribution function.

    A token of weight 0 is never drawn. Indices keep the vocabulary's order: two weights that differ by a rounding error
    move a border by as little, where in sorted order they would change places.
    """
    mass_RV = weight_RV.cumsum(dim=-1, dtype=torch.float64)
    target_R1 = uniform_R[:, None].to(mass_RV) * mass_RV[:, -1:]
    return torch.searchsorted(mass_RV, target_R1, right=True)[:, 0].clamp(max=weight_RV.shape[-1] - 1)


def _only(scaled_RV: Float[Tensor, "R V"], index_RK: Int[Tensor, "R K"]) -> Float[Tensor, "R V"]:
    kept_RV = torch.full_like(scaled_RV, -torch.inf)
    return kept_RV.scatter_(-1, index_RK, scaled_RV.gather(-1, index_RK))
