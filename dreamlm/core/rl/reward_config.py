"""The `rl.reward_model` section of a preset."""

from typing import Literal

from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.training.optim import AdamW
from dreamlm.core.training.precision import Precision
from dreamlm.core.training.schedules import Cosine


class RewardConfig(ConfigModel):
    """How a reward model is fitted to preference pairs."""

    epochs: int = Field(2, ge=1)
    """Passes over the pairs. Each ends with a measurement on held-out pairs; the best of them is what a run offers."""
    pairs_per_step: int = Field(16, ge=1)
    """Pairs of one optimizer step, over all processes, which share them equally."""
    pairs_per_micro_batch: int = Field(8, ge=1)
    """Pairs that a process computes at once; halved when memory runs out: the steps stay the same."""
    component_weight: float = Field(0.2, ge=0.0)
    """Weight of teaching the components to rank answers as measurements do; 0 measures nothing."""
    optimizer: AdamW.Config = AdamW.Config(learning_rate=3e-4, weight_decay=0.01)
    schedule: Cosine.Config = Cosine.Config(floor=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradients are scaled down to this norm at every step."""
    precision: Precision = "auto"
    backend: Literal["auto", "torch", "deepspeed"] = "auto"
    """`auto`: plain PyTorch in one process, DeepSpeed in several."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed divides among processes: 0 nothing, 1 optimizer, 2 also gradients, 3 also weights."""
    seed: int = Field(0, ge=0)
    """Decides the order of the pairs."""
    save_interval_seconds: float = Field(300.0, gt=0.0)
    """Save a snapshot when the last one is this old, and after every epoch."""
    save_interval_steps: int | None = Field(None, ge=1)
    """Also save after every so many steps."""
    max_skipped_steps: int = Field(10, ge=1)
    """Stop, at the last finite snapshot, after so many steps in a row whose loss or gradient was not finite."""
    retry_seconds: float = Field(10.0, gt=0.0)
    """How long to wait for space on a full disk before trying to save again."""
