"""The `train` section of a preset."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.objectives.augmentation import Disturbed
from dreamlm.core.objectives.picture_augmentation import DisturbedPictures
from dreamlm.core.training.curriculum import CurriculumConfig
from dreamlm.core.training.lengths import LengthSchedule
from dreamlm.core.training.optim import AdamW, OptimizerConfig
from dreamlm.core.training.precision import Precision
from dreamlm.core.training.rows import RowsByMemory
from dreamlm.core.training.schedules import Cosine, ScheduleConfig


class TrainingConfig(ConfigModel):
    """How a model is trained; one optimizer step sees per_gpu_batch_size * accumulation_steps * processes windows."""

    train_tokens: int = Field(100_000_000, ge=1)
    """The run ends after this many target tokens."""
    per_gpu_batch_size: int = Field(32, ge=1)
    """Windows of one micro-batch on each process."""
    accumulation_steps: int = Field(1, ge=1)
    """Micro-batches of one optimizer step on each process."""
    memory: RowsByMemory.Config = RowsByMemory.Config()
    """Shrink and grow micro-batches by the memory they take; default only halve them when it runs out."""
    lengths: tuple[LengthSchedule.Stage, ...] = ()
    """Stages at the beginning of the run in which windows are cut into shorter rows; default whole windows."""
    curriculum: CurriculumConfig = ()
    """Stages of the run that change what the model does: a list, or "dreaming"; default the model's own settings."""
    optimizer: OptimizerConfig = AdamW.Config()
    schedule: ScheduleConfig = Cosine.Config()
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradients are scaled down to this norm at every step."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the target probability spread over the vocabulary; reported losses are always without it."""
    augmentation: Disturbed.Config | None = None
    """Disturb what some rows read in training, never what they predict; {} is the usual measure, default none."""
    picture_augmentation: DisturbedPictures.Config | None = None
    """See each picture a little otherwise whenever it comes in training; {} is the usual measure, default none."""
    precision: Precision = "auto"
    """`auto` measures whether bf16 pays on this device, and keeps its choice for the whole run."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer for the backward pass: less memory, about a quarter more time."""
    compile: bool = False
    """Run the model through torch.compile."""
    backend: Literal["auto", "torch", "deepspeed"] = "auto"
    """`auto`: plain PyTorch in one process, DeepSpeed in several."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed divides among processes: 0 nothing, 1 optimizer, 2 also gradients, 3 also weights."""
    seed: int = Field(0, ge=0)
    eval_tokens: int = Field(2_000_000, ge=1)
    """Evaluate on held-out documents after every so many training tokens, and at the end."""
    validation_tokens: int = Field(100_000, ge=1)
    """About how many held-out tokens an evaluation during training reads; stays for a run. `dreamlm eval` reads all."""
    save_interval_seconds: float = Field(300.0, gt=0.0)
    """Save a snapshot when the last one is this old."""
    save_interval_steps: int | None = Field(None, ge=1)
    """Also save after every so many steps."""
    max_skipped_steps: int = Field(10, ge=1)
    """Stop, at the last finite snapshot, after so many steps in a row whose loss or gradient was not finite."""
    retry_seconds: float = Field(10.0, gt=0.0)
    """How long to wait for space on a full disk before trying to save again."""
    sanity_checks: bool = True
    """Check the first loss, that weights move, and that the loss falls within a hundred steps."""
    sample_prompts: tuple[str, ...] = ("",)
    """Continued after every evaluation; the empty prompt begins a new document."""

    @field_validator("lengths")
    @classmethod
    def _stages_follow_one_another(cls, lengths: tuple[LengthSchedule.Stage, ...]) -> tuple[LengthSchedule.Stage, ...]:
        ends = [stage.until for stage in lengths]
        if any(end >= following for end, following in pairwise(ends)):
            raise ValueError(f"each stage must end after the one before it, not {ends}")
        return lengths
