"""Next-token prediction: the objective of a causal language model."""

import torch
from jaxtyping import Int
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.objective import Losses, Objective


class CausalObjective(Objective):
    """Cross-entropy of every real token given the tokens of its document before it."""

    def __init__(self, model: DreamLM, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, tokens_BX: Int[Tensor, "B T+1"], documents_BX: Int[Tensor, "B T+1"], boundaries: bool) -> Losses:
        carry = self.model.start(tokens_BX.shape[0], records=False)
        signal = self.model(tokens_BX[:, :-1], documents_BX[:, :-1], carry, boundaries)
        # A target behind padding, or padding itself, is not real.
        real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0)
        target_BT = torch.where(real_BT, tokens_BX[:, 1:], -1)
        loss, nll = self.model.head(signal.hidden.flatten(0, 1), target_BT.flatten(), self.label_smoothing)
        return Losses({"token": loss, **signal.losses}, nll, real_BT.sum(), signal.probes)
