"""Next-token prediction: the objective of a causal language model."""

import torch
from jaxtyping import Int
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.augmentation import UNTOUCHED, Augmentation
from dreamlm.core.objectives.objective import Losses, Objective


class CausalObjective(Objective):
    """Cross-entropy of every real token given the tokens of its document before it."""

    def __init__(self, model: DreamLM, label_smoothing: float, augmentation: Augmentation = UNTOUCHED) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing, self.augmentation = label_smoothing, augmentation

    def forward(self, tokens_BX: Int[Tensor, "B T+1"], documents_BX: Int[Tensor, "B T+1"], boundaries: bool) -> Losses:
        inputs = self.augmentation.inputs(self.model, tokens_BX[:, :-1], documents_BX[:, :-1])
        carry = inputs.start(self.model, records=False)
        signal = self.model(inputs.tokens_BT, documents_BX[:, :-1], carry, boundaries)
        # A target behind padding, or padding itself, is not real.
        real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0)
        target_BT = torch.where(real_BT, tokens_BX[:, 1:], -1)
        importance_BT = inputs.importance(real_BT)
        importance_N = None if importance_BT is None else importance_BT.flatten()
        loss, nll = self.model.head(
            signal.hidden.flatten(0, 1), target_BT.flatten(), self.label_smoothing, importance_N
        )
        return Losses({"token": loss, **signal.losses}, nll, real_BT.sum(), signal.probes)
