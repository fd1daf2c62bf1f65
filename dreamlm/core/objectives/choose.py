"""The objective that a model is trained by."""

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.diffusion import DiffusionObjective
from dreamlm.core.objectives.objective import Objective


def objective_of(model: DreamLM, label_smoothing: float, end_id: int) -> Objective:
    """What the model's configuration asks for.  end_id: the token that ends a document."""
    if model.config.diffusion is None:
        return CausalObjective(model, label_smoothing)
    return DiffusionObjective(model, label_smoothing, end_id)
