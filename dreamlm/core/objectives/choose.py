"""The objective that a model is trained by, and what it lets the model read."""

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.augmentation import UNTOUCHED, Augmentation, Disturbed
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.diffusion import DiffusionObjective
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.objectives.picture_augmentation import AS_THEY_ARE, DisturbedPictures, PictureAugmentation
from dreamlm.core.tokenizer import Tokenizer


def objective_of(
    model: DreamLM,
    label_smoothing: float,
    filler_id: int,
    augmentation: Augmentation = UNTOUCHED,
    pictures: PictureAugmentation = AS_THEY_ARE,
) -> Objective:
    """What the model's configuration asks for.  filler_id: see `objectives.blocks`."""
    if model.config.diffusion is None:
        return CausalObjective(model, label_smoothing, augmentation, pictures)
    return DiffusionObjective(model, label_smoothing, filler_id, augmentation)


def augmentation_of(asked: Disturbed.Config | None, model: DreamLM, tokenizer: Tokenizer) -> Augmentation:
    """What `train.augmentation` asks for; None is nothing.  Raises: UserMistake when the model cannot drop tokens."""
    if asked is None:
        return UNTOUCHED
    return asked.build(model, tokenizer.vocab_size, tokenizer.end_of_document_id, tokenizer.padding_id)


def picture_augmentation_of(asked: DisturbedPictures.Config | None) -> PictureAugmentation:
    """What `train.picture_augmentation` asks for; None is nothing."""
    return AS_THEY_ARE if asked is None else asked.build()
