"""The objective that a model is trained by, and what it lets the model read."""

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.augmentation import UNTOUCHED, Augmentation, Disturbed
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.diffusion import DiffusionObjective
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.tokenizer import Tokenizer


def objective_of(
    model: DreamLM, label_smoothing: float, end_id: int, augmentation: Augmentation = UNTOUCHED
) -> Objective:
    """What the model's configuration asks for.  end_id: the token that ends a document."""
    if model.config.diffusion is None:
        return CausalObjective(model, label_smoothing, augmentation)
    return DiffusionObjective(model, label_smoothing, end_id, augmentation)


def augmentation_of(asked: Disturbed.Config | None, model: DreamLM, tokenizer: Tokenizer) -> Augmentation:
    """What `train.augmentation` asks for; None is nothing.  Raises: UserMistake when the model cannot drop tokens."""
    if asked is None:
        return UNTOUCHED
    return asked.build(model, tokenizer.vocab_size, tokenizer.end_of_document_id, tokenizer.padding_id)
