"""What makes a decoder a block-diffusion model: which blocks it writes its text in, and what it was made to fill in."""

from typing import Literal

from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.noise import NoiseName


class BlockDiffusion(ConfigModel):
    """Writes the next block of a text at once, in several steps of filling in, not one token after another."""

    type: Literal["block_diffusion"] = "block_diffusion"
    block_size: int | None = Field(None, ge=1)
    """Tokens of a block, a divisor of the segment; default the whole segment. 1 is a causal language model."""
    noise_schedule: NoiseName = "linear"
    """How many tokens of a block are masked at each time of training."""
    num_diffusion_steps: int | None = Field(None, ge=1)
    """Steps in which a block is written, unless `generate` says otherwise; default one for each token."""


def require_causal(
    diffusion: BlockDiffusion | None,
    what: str,
    where: str = "model.diffusion",
    hint: str = "train one without model.diffusion",
) -> None:
    """what: that which takes one token after another.  where, hint: who chose the model, and what helps.

    Raises: UserMistake when a diffusion model was chosen for it.
    """
    if diffusion is not None:
        raise UserMistake(
            f"{what} needs a model that predicts one token after another, and this one fills in blocks",
            where=where,
            hint=hint,
        )
