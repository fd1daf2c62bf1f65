"""The small run that test_zero.py trains with one process of plain PyTorch and zero_worker.py with two of DeepSpeed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.augmentation import Disturbed
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.training.backend.backend import Backend, WindowBatch, real_targets
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.optim import AdamW, Muon, OptimizerConfig
from dreamlm.core.types import Batch

VOCAB = 61
ROWS, MICRO_BATCHES, LENGTH = 2, 4, 12
STEPS, SAVED_AT = 6, 3
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adamw": AdamW.Config(learning_rate=1e-2),
    "muon": Muon.Config(learning_rate=1e-2, others=AdamW.Config(learning_rate=1e-2)),
}
MAX_NORM = 0.5


class Case(NamedTuple):
    """How two processes train."""

    stage: int
    precision: str
    optimizer: str = "adamw"

    def __str__(self) -> str:
        return f"z{self.stage}-{self.precision}-{self.optimizer}"


CASES = [
    *(Case(stage, "fp32") for stage in (0, 1, 2, 3)),
    *(Case(stage, "bf16") for stage in (0, 2, 3)),
    Case(0, "fp32", "muon"),
]
RESUMED_CASES = [*CASES[:4], Case(2, "bf16"), Case(0, "fp32", "muon")]
PARTS = ("tokens", "documents")
MOVED_STAGES = (2, 3)
EXPERT_STAGES = (2, 3)
EXPERTS = {"feed_forward": {"type": "moe", "num_experts": 32, "expert_size": 5}}
"""More experts than a micro-batch of a rank can use, so that the ranks' idle experts differ."""
EXPERT_WEIGHTS = {"token": 1.0, "moe_balance": 0.01}
EXPERT_FACTORS = {"moe_balance": 50.0}
"""What the loop may tell a backend: here so much that nobody overlooks it."""
DREAM_SIZES = {"num_experts": 6, "moe_top_k": 1, "expert_num_layers": 1, "expert_num_heads": 2, "graph_num_heads": 2}
DREAMS = {"segment_length": 4, "modules": [{"type": "dreaming", **DREAM_SIZES}]}
DREAM_WEIGHTS = {"token": 1.0, "dreaming.balance": 0.01}
FEW_DREAMS, MANY_DREAMS = (
    Stage(dream_length=length, num_dream_sequences=dreams, graph_reasoning_hops=hops)
    for length, dreams, hops in ((1, 1, 1), (3, 2, 2))
)
"""The first has no edges between steps of dreams, so nothing of their weights reaches a loss in it."""


def objective(**options: Any) -> CausalObjective:
    """A tied head, a matrix that no two ranks can halve, and vectors: so there are two groups and padding."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_layers": 2, "num_heads": 2, "seq_length": LENGTH, "intermediate_size": 37}
    config = DreamLM.Config.model_validate({**sizes, "dropout": 0.1, **options})
    return CausalObjective(config.build(VOCAB), label_smoothing=0.1)


def augmented() -> CausalObjective:
    """Half of the rows are disturbed, some tokens of them dropped."""
    plain = objective(mask_vector=True)
    disturbed = Disturbed.Config(probability=0.5).build(plain.model, VOCAB, end_id=0, padding_id=1)
    return CausalObjective(plain.model, plain.label_smoothing, disturbed)


def single(precision: str, optimizer: str = "adamw", **options: Any) -> SingleProcess:
    torch.set_num_threads(1)
    chosen, weights = OPTIMIZERS[optimizer], EXPERT_WEIGHTS | DREAM_WEIGHTS
    return SingleProcess(objective(**options), chosen, weights, MAX_NORM, precision, compile=False)


def micro_batch(step: int, number: int) -> WindowBatch:
    """Rows with boundaries; every second micro-batch has padding, so ranks have different numbers of targets."""
    random = np.random.default_rng([step, number])
    tokens = random.integers(0, VOCAB, (ROWS, LENGTH + 1))
    documents = np.sort(random.integers(0, 3, (ROWS, LENGTH + 1)), axis=1).astype(np.int32)
    if number % 2:
        documents[-1, 7:] = -1
    return WindowBatch(Batch(tokens, documents, np.zeros(ROWS, np.int32)), seed=100 * step + number)


def share(step: int, backend: Backend) -> list[WindowBatch]:
    return [micro_batch(step, number) for number in range(backend.rank, MICRO_BATCHES, backend.world_size)]


def train(backend: Backend, steps: Sequence[int]) -> list[list[float]]:
    """Loss, gradient norm and learning rate of each step."""
    seen = []
    for step in steps:
        measured = backend.forward_backward(share(step, backend))
        update = backend.update(1.0 / (step + 1))
        assert update.applied
        seen.append([measured.nll, update.gradient_norm, update.learning_rate])
    return seen


def train_staged(backend: Backend) -> list[list[float]]:
    """Through an edge of a curriculum, and back."""
    seen = []
    for step in range(STEPS):
        backend.model.enter(MANY_DREAMS if step in (2, 3) else FEW_DREAMS)
        seen += train(backend, [step])
    return seen


class FewWindows:
    """Implements `core.types.HeldOut`: five windows of two sources, with boundaries and padding."""

    utf8_bytes = 200

    def batches(self, rows: int) -> list[Batch]:
        parts = [micro_batch(60, number).batch for number in (0, 1, 2)]
        tokens, documents = (np.concatenate([getattr(part, name) for part in parts])[:5] for name in PARTS)
        sources = np.array([0, 0, 1, 1, 0], np.int32)
        cuts = [slice(begin, begin + rows) for begin in range(0, 5, rows)]
        return [Batch(tokens[cut], documents[cut], sources[cut]) for cut in cuts]

    @property
    def tokens(self) -> int:
        return sum(real_targets(batch) for batch in self.batches(5))


def held_out_loss(backend: Backend) -> float:
    """The summed loss of one batch as evaluation computes it; concerns this rank alone inside `whole()`."""
    tokens = torch.from_numpy(micro_batch(99, 0).batch.tokens)
    model = backend.model.eval()
    with torch.inference_mode(), backend.autocast():
        signal = model(tokens[:, :-1], torch.zeros_like(tokens[:, :-1]), model.start(ROWS), False)
        loss = model.head.token_nll(signal.hidden.flatten(0, 1), tokens[:, 1:].flatten()).sum().item()
    model.train()
    return float(loss)
