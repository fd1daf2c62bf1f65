"""Small runs whose weights are really divided: test_zero_divided.py trains them alone, divided_worker.py on two ranks.

A scene's model is so small that DeepSpeed would leave every weight whole; the worker lowers its threshold to nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import zero_scenes
from zero_scenes import LENGTH, MAX_NORM, MICRO_BATCHES

from dreamlm.core.objectives.choose import objective_of
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.training.backend.backend import Backend, WindowBatch
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.optim import AdamW
from dreamlm.core.types import Batch, Pictures

STEPS, SAVED_AT, RESTING_STEP = 5, 3, 3
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
EYES = {"type": "vit", "image_size": 14, "width": 8, "num_layers": 1, "num_heads": 2, "num_prefix_tokens": 2}
QUIET = {"token_mask_prob": 0.0, "embedding_dropout": 0.0}
TOWER = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP = {
    "vision": {
        **{"type": "clip", "path": "read already", "image_size": 14, "num_prefix_tokens": 2},
        "architecture": {**TOWER, "image_size": 14, "patch_size": 7, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
    }
}
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
    "eyes": {"vision": EYES},
    "eyes-summary": {"vision": EYES, **SUMMARY},
    "clip": CLIP,
    "clip-thawed": {"vision": {**CLIP["vision"], "frozen": False}},
    # A picture that is added for the other ranks moves what is drawn behind it.
    "quiet-eyes": {"vision": {**EYES, **QUIET}, "dropout": 0.0},
}
SIGHTED = {"quiet-eyes": lambda step, number: number % 2 == 0 and step != RESTING_STEP}
"""Which micro-batches have pictures, where not all do: the second rank has none, and in one step nobody has any."""
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
    *(Case("eyes", stage=stage) for stage in (0, 2)),
    Case("quiet-eyes", stage=2),
    Case("clip", stage=2),
]
ALL = [
    *(
        Case(model, tied, checkpointing)
        for model in MODELS
        for tied in (True, False)
        for checkpointing in (True, False)
        if model != "lossless"
    ),
    *(Case(model, stage=stage, lengths="resting") for model in ("summary", "thoughts") for stage in (0, 1, 2, 3)),
    *(Case("lossless", stage=stage, lengths="uneven") for stage in (0, 1, 2, 3)),
    *(Case(model, precision="bf16") for model in ("summary", "thoughts", "diffusion-thoughts")),
]
SLOW = [case for case in ALL if case not in FAST]
RESUMED = [case for case in ALL if case in SLOW or case.lengths == "resting"]


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
    eyes, sighted = MODELS[case.model].get("vision"), SIGHTED.get(case.model, lambda step, number: True)
    return WindowBatch(illustrated(rows, whole.seed, eyes) if eyes and sighted(step, number) else rows, whole.seed)


def illustrated(batch: Batch, seed: int, eyes: dict[str, Any]) -> Batch:
    """The rows with a picture each behind their first token; what else is in their first document is its caption."""
    places, size, rows = eyes["num_prefix_tokens"], eyes["image_size"], len(batch.tokens)
    tokens, documents, of = batch.tokens.copy(), batch.documents.copy(), np.full(batch.tokens.shape, -1, np.int32)
    tokens[:, 1 : 1 + places] = -1 - np.arange(places)
    documents[:, : 1 + places] = 0
    of[:, 1 : 1 + places] = np.arange(rows)[:, None]
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, 3, size, size), dtype=np.uint8)
    return replace(batch, tokens=tokens, documents=documents, pictures=Pictures(pixels, of))


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
