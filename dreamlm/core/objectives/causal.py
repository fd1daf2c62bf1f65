"""Next-token prediction: the objective of a causal language model."""

from dataclasses import replace

from jaxtyping import Int
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import Sight
from dreamlm.core.objectives.augmentation import UNTOUCHED, Augmentation
from dreamlm.core.objectives.captions import contrasted
from dreamlm.core.objectives.objective import Losses, Objective, over_targets
from dreamlm.core.objectives.picture_augmentation import AS_THEY_ARE, PictureAugmentation
from dreamlm.core.objectives.targets import documents_read, targets_of


class CausalObjective(Objective):
    """Cross-entropy of every real token given the tokens of its document before it, and the pictures among them.

    A model with `vision` also learns which caption belongs to which picture of the micro-batch (`captions.py`).
    """

    def __init__(
        self,
        model: DreamLM,
        label_smoothing: float,
        augmentation: Augmentation = UNTOUCHED,
        pictures: PictureAugmentation = AS_THEY_ARE,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing, self.augmentation, self.pictures = label_smoothing, augmentation, pictures

    def forward(
        self,
        tokens_BX: Int[Tensor, "B T+1"],
        documents_BX: Int[Tensor, "B T+1"],
        boundaries: bool,
        sight: Sight | None = None,
    ) -> Losses:
        """sight: the pictures of the batch; None without any."""
        view = self.model.look(self._seen(sight))
        documents_BT = documents_read(documents_BX)
        inputs = self.augmentation.inputs(self.model, tokens_BX[:, :-1], documents_BT)
        carry = inputs.start(self.model, records=False)
        signal = self.model(inputs.tokens_BT, documents_BT, carry, boundaries, view)
        target_BT = targets_of(tokens_BX, documents_BX)
        real_BT = target_BT >= 0
        importance_BT = inputs.importance(real_BT)
        importance_N = None if importance_BT is None else importance_BT.flatten()
        loss, nll = self.model.head(
            signal.hidden.flatten(0, 1), target_BT.flatten(), self.label_smoothing, importance_N
        )
        real = real_BT.sum()
        compared = {
            name: mean * real for name, mean in contrasted(self.model, view, sight, tokens_BX, documents_BX).items()
        }
        parts = over_targets(signal.losses, documents_BT, real)
        return Losses({"token": loss, **parts, **compared}, nll, real, signal.probes)

    def _seen(self, sight: Sight | None) -> Sight | None:
        if sight is None or not self.model.training:
            return sight
        return replace(sight, pixels_IHW=self.pictures.seen(sight.pixels_IHW))
