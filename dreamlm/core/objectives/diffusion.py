"""Masked diffusion over blocks: the objective of a block-diffusion language model.

    clean path   the window goes through the decoder; its states are what blocks see of the text before them
    noise        of each block, a share of the tokens that a stratified time decides is hidden
    noisy path   slots of all blocks go through the same layers at once; hidden tokens are predicted

Both paths are trained by the same loss: the noisy one reads the states that the clean one leaves. Augmentation disturbs
what the clean path reads; slots and their targets are what they are without it.

Shapes: B rows, X = T + 1 tokens of a window, N slots of a row, U blocks.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.denoising import denoise
from dreamlm.core.nn.noise import SCHEDULES, stratified_times
from dreamlm.core.nn.signal import Signal, positions_in_documents
from dreamlm.core.objectives.augmentation import UNTOUCHED, Augmentation
from dreamlm.core.objectives.blocks import Blocks, lay_out
from dreamlm.core.objectives.objective import Losses, Objective, over_targets
from dreamlm.core.objectives.targets import documents_read


class DiffusionObjective(Objective):
    """The bound on the negative log-likelihood of every real token, by one time for each block.

    The loss is exact in the mean: neither the smallest times nor the largest are left out.
    Source: Arriola et al. 2025, "Block Diffusion", equation 8, in the form of `core.nn.noise`.
    """

    def __init__(
        self, model: DreamLM, label_smoothing: float, filler_id: int, augmentation: Augmentation = UNTOUCHED
    ) -> None:
        """filler_id: what stands behind a document's end.  The model has `diffusion` in its configuration."""
        super().__init__()
        assert model.config.diffusion is not None, "not a diffusion model"
        self.model = model
        self.label_smoothing, self.filler_id, self.augmentation = label_smoothing, filler_id, augmentation
        self.schedule = SCHEDULES[model.config.diffusion.noise_schedule]

    def forward(self, tokens_BX: Int[Tensor, "B X"], documents_BX: Int[Tensor, "B X"], boundaries: bool) -> Losses:
        blocks = blocks_of(self.model, tokens_BX, documents_BX, self.filler_id)
        count_U = self.schedule.counts(stratified_times(len(blocks.size_U), tokens_BX.device), blocks.size_U)
        masked_BN = blocks.masked(count_U, torch.rand(blocks.unit_BN.shape, device=tokens_BX.device))
        importance_BN = blocks.importance(count_U, masked_BN, self.schedule)
        clean = read_clean(self.model, tokens_BX, documents_BX, boundaries, self.augmentation)
        noisy = fill_in(self.model, blocks, masked_BN, clean)
        loss, nll = self.model.head(
            noisy.hidden[masked_BN], blocks.target_BN[masked_BN], self.label_smoothing, importance_BN[masked_BN]
        )
        real = ((documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0)).sum()
        by_clean = over_targets(_summed(clean), documents_read(documents_BX), real)
        by_noisy = over_targets(noisy.losses, blocks.documents_BN, real)
        # What both paths pass, such as a router, counts half on each.
        parts = {name: (by_clean[name] + by_noisy[name]) / 2 for name in by_noisy}
        probes = {**noisy.probes, **clean[-1].probes}
        return Losses({"token": loss, **by_clean, **parts}, nll, real, probes)


def blocks_of(
    model: DreamLM, tokens_BX: Int[Tensor, "B X"], documents_BX: Int[Tensor, "B X"], filler_id: int
) -> Blocks:
    """The blocks of a batch of windows that begin with nothing before them."""
    documents_BT = documents_BX[:, :-1].to(torch.int32)
    position_BT, _, _ = positions_in_documents(model.start(len(tokens_BX)), documents_BT)
    return lay_out(tokens_BX, documents_BX, position_BT, model.config.block, filler_id)


def read_clean(
    model: DreamLM,
    tokens_BX: Int[Tensor, "B X"],
    documents_BX: Int[Tensor, "B X"],
    boundaries: bool,
    augmentation: Augmentation = UNTOUCHED,
) -> list[Signal]:
    """The clean path: one signal for each segment, with the carry behind it, and vectors that mean nothing."""
    documents_BT = documents_read(documents_BX)
    inputs = augmentation.inputs(model, tokens_BX[:, :-1], documents_BT)
    return [*model.segments(inputs.tokens_BT, documents_BT, inputs.start(model), boundaries, vectors=False)]


def fill_in(model: DreamLM, blocks: Blocks, masked_BN: Tensor, clean: Sequence[Signal]) -> Signal:
    """The noisy path: every block with its hidden tokens."""
    before = [model.start(len(masked_BN)), *(signal.carry for signal in clean[:-1])]
    return denoise(model, blocks.slots(masked_BN, model.mask_id), clean[-1].carry, before)


def _summed(signals: Sequence[Signal]) -> Mapping[str, Float[Tensor, ""]]:
    """What layers add to the loss, over all segments."""
    return reduce(lambda whole, signal: whole.with_losses(signal.losses), signals).losses
