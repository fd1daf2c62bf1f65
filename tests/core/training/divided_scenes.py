"""Small runs whose weights are really divided: test_zero_divided.py trains them alone, divided_worker.py on two ranks.

A scene's model is so small that DeepSpeed would leave every weight whole; the worker lowers its threshold to nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import zero_scenes
from seeing_scenes import SEEING, shown
from zero_scenes import LENGTH, MAX_NORM, MICRO_BATCHES

from dreamlm.core.objectives.choose import objective_of
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.training.backend.backend import Backend, WindowBatch
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.optim import AdamW
from dreamlm.core.types import Batch

STEPS, SAVED_AT = 5, 3
SEGMENT = 4
SUMMARY = {"segment_length": SEGMENT, "modules": ["segment_summary"]}
THOUGHTS = {
    "segment_length": SEGMENT,
    "modules": [{"type": "thought_stack", "thought_dims": (4, 4, 2), "stack_size": 2}],
}
DREAMS = {
    "segment_length": SEGMENT,
    "modules": [
        {
            **{"type": "dreaming", "num_dream_sequences": 2, "dream_length": 2, "num_experts": 16, "dream_size": 8},
            **{"expert_num_layers": 1, "expert_num_heads": 2, "graph_num_heads": 2},
        }
    ],
}
"""More experts than the dreams of a rank can use, so that the ranks' idle experts differ."""
DIFFUSION = {"diffusion": {"block_size": 4}}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "summary": SUMMARY,
    "thoughts": THOUGHTS,
    "dreams": DREAMS,
    "diffusion": DIFFUSION,
    "diffusion-summary": DIFFUSION | SUMMARY,
    "diffusion-thoughts": DIFFUSION | THOUGHTS,
    # Padding lengthens what a module's own loss counts, and what dropout is drawn for.
    "lossless": {**SUMMARY, "modules": [{"type": "segment_summary", "reconstruction_weight": 0.0}], "dropout": 0.0},
    **SEEING,
}
OPTIMIZER = AdamW.Config(learning_rate=1e-2, epsilon=1e-3)
"""The sign of a gradient near zero must not decide a whole step."""
SHORT = SEGMENT - 1
LENGTHS = {
    "even": lambda step, number: LENGTH,
    # The first pass of the third step reaches no module, but later ones do; the fourth step reaches none again.
    "resting": lambda step, number: (LENGTH, SHORT, SHORT if number < 2 else LENGTH, SHORT, LENGTH)[step],
    "uneven": lambda step, number: SHORT if number % 2 else LENGTH,
}


class Case(NamedTuple):
    """What is trained, and how it is divided."""

    model: str
    tied: bool = True
    checkpointing: bool = False
    stage: int = 3
    precision: str = "fp32"
    lengths: str = "even"

    def __str__(self) -> str:
        words = ("tied" if self.tied else "untied", "checkpointed" if self.checkpointing else "kept")
        return "-".join([self.model, *words, f"z{self.stage}", self.precision, self.lengths])


FAST = [
    Case("thoughts", tied=False, lengths="resting"),
    Case("diffusion-summary", checkpointing=True),
    Case("dreams", checkpointing=True),
    Case("lossless", stage=2, lengths="uneven"),
    Case("rare-eyes", stage=0),
    Case("quiet-eyes", stage=2),
    Case("clip", stage=2),
]
ALL = [
    *(
        Case(model, tied, checkpointing)
        for model in MODELS
        for tied in (True, False)
        for checkpointing in (True, False)
        if model not in ("lossless", *SEEING)
    ),
    *(Case(model, stage=stage, lengths="resting") for model in ("summary", "thoughts") for stage in (0, 1, 2, 3)),
    *(Case("lossless", stage=stage, lengths="uneven") for stage in (0, 1, 2, 3)),
    *(Case(model, precision="bf16") for model in ("summary", "thoughts", "diffusion-thoughts", "eyes")),
    *(Case(model, stage=0) for model in SEEING),
    *(
        Case(model, checkpointing=stage == 3, stage=stage)
        for model in SEEING
        for stage in (1, 2, 3)
        if model != "rare-eyes"
    ),
]
SLOW = [case for case in ALL if case not in FAST]
RESUMED = [case for case in ALL if case in SLOW or case.lengths == "resting" or case.model == "quiet-eyes"]


def objective(case: Case) -> Objective:
    model = zero_scenes.objective(**MODELS[case.model], tie_embeddings=case.tied).model
    model.checkpoint_activations(case.checkpointing)
    return objective_of(model, 0.1, 0)


def single(case: Case) -> SingleProcess:
    torch.set_num_threads(1)
    built = objective(case)
    return SingleProcess(built, OPTIMIZER, built.model.config.loss_weights, MAX_NORM, case.precision, compile=False)


def micro_batch(case: Case, step: int, number: int) -> WindowBatch:
    whole = zero_scenes.micro_batch(step, number)
    end = LENGTHS[case.lengths](step, number) + 1
    rows = Batch(whole.batch.tokens[:, :end], whole.batch.documents[:, :end], whole.batch.sources)
    return WindowBatch(shown(case.model, rows, step, number), whole.seed)


def train(case: Case, backend: Backend, steps: Sequence[int]) -> list[list[float]]:
    """Loss and gradient norm of each step."""
    seen = []
    for step in steps:
        mine = range(backend.rank, MICRO_BATCHES, backend.world_size)
        measured = backend.forward_backward([micro_batch(case, step, number) for number in mine])
        update = backend.update(1.0 / (step + 1))
        assert update.applied
        seen.append([measured.nll, update.gradient_norm])
    return seen
