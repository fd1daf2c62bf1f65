"""The `rl.ppo` section of a preset."""

from typing import Literal

from pydantic import Field, model_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.objectives.ppo import Algorithm
from dreamlm.core.rl.alarms import AlarmLimits
from dreamlm.core.rl.controllers import KlControl
from dreamlm.core.rl.rollout import RolloutConfig
from dreamlm.core.training.optim import AdamW
from dreamlm.core.training.precision import Precision


class PolicyConfig(ConfigModel):
    """How a policy is trained by its own answers."""

    algorithm: Algorithm = "ppo"
    """`reinforce` takes one step along A log p for each mini-batch, with the critic as its baseline."""
    iterations: int = Field(200, ge=1)
    """The run ends after so many rounds of answers and updates."""
    answers: int = Field(64, ge=1)
    """Answers of one iteration, over all processes."""
    rollout: RolloutConfig = RolloutConfig()
    epochs: int = Field(4, ge=1)
    """Passes over the answers of an iteration; `reinforce` makes one."""
    minibatch: int = Field(16, ge=1)
    """Answers of one optimizer step, over all processes; a divisor of `answers`."""
    micro_batch: int = Field(16, ge=1)
    """Answers that a process computes at once, a divisor of its share of a mini-batch; changes memory only."""
    clip: float = Field(0.2, gt=0.0, lt=1.0)
    """How far the probability ratio may go before it earns nothing more."""
    value_clip: float = Field(0.2, gt=0.0)
    """How far a value may go from its old one before its error counts no less."""
    value_coefficient: float = Field(0.5, ge=0.0)
    entropy_coefficient: float = Field(0.01, ge=0.0)
    discount: float = Field(1.0, gt=0.0, le=1.0)
    """What a reward one token later is worth."""
    trace: float = Field(0.95, ge=0.0, le=1.0)
    """Lambda of the generalised advantage estimate."""
    kl: KlControl = KlControl()
    stop_kl: float = Field(0.05, gt=0.0)
    """The updates of an iteration end when they moved the policy this far, in nats per token."""
    score_limit: float = Field(5.0, gt=0.0)
    """Normalised scores are cut to plus or minus this."""
    missing_end_penalty: float = Field(0.0, ge=0.0)
    """Taken off the score of an answer that was cut off."""
    length_target: int | None = Field(None, ge=1)
    """Tokens an answer may have before `length_penalty` sets in; default no limit."""
    length_penalty: float = Field(0.0, ge=0.0)
    """Taken off the score for each token beyond `length_target`."""
    max_grad_norm: float = Field(0.5, gt=0.0)
    optimizer: AdamW.Config = AdamW.Config(learning_rate=1e-4, weight_decay=0.0)
    alarms: AlarmLimits = AlarmLimits()
    max_skipped_updates: int = Field(10, ge=1)
    """End an iteration after so many updates in a row whose loss or gradient was not finite; none is applied."""
    eval_iterations: int = Field(10, ge=1)
    """Judge answers to held-out prompts after every so many iterations, and at the end."""
    eval_prompts: int = Field(64, ge=1)
    """How many held-out prompts are answered then."""
    samples: int = Field(2, ge=0)
    """How many of those answers are shown."""
    save_interval_iterations: int = Field(10, ge=1)
    """Save a snapshot after every so many iterations."""
    save_interval_seconds: float = Field(300.0, gt=0.0)
    """Also save when the last snapshot is this old."""
    retry_seconds: float = Field(10.0, gt=0.0)
    """How long to wait for space on a full disk before trying to save again."""
    precision: Precision = "auto"
    backend: Literal["auto", "torch", "deepspeed"] = "auto"
    """`auto`: plain PyTorch in one process, DeepSpeed in several."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed divides among processes: 0 nothing, 1 optimizer, 2 also gradients, 3 also weights."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "PolicyConfig":
        if self.answers % self.minibatch:
            raise ValueError(f"minibatch {self.minibatch} must divide answers {self.answers}")
        if self.minibatch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} must divide minibatch {self.minibatch}")
        if self.length_penalty > 0 and self.length_target is None:
            raise ValueError("length_penalty needs a length_target")
        if self.rollout.min_new_tokens > self.rollout.max_new_tokens:
            raise ValueError("rollout.min_new_tokens must not be above rollout.max_new_tokens")
        return self

    @property
    def passes(self) -> int:
        return 1 if self.algorithm == "reinforce" else self.epochs
