"""The eleven contracts, in their order."""

from influence_contracts import causal, documents_apart, no_copying, rows_and_padding
from learning_contracts import every_parameter_learns, finite, it_matters
from sameness_contracts import one_pass, recomputation, same_seed, survives_saving

CONTRACTS = (
    causal,
    no_copying,
    every_parameter_learns,
    it_matters,
    one_pass,
    rows_and_padding,
    survives_saving,
    same_seed,
    finite,
    recomputation,
    documents_apart,
)
TRAINING_ONLY = (every_parameter_learns,)
"""An objective is trained in train mode alone, and a part that makes noise learns nothing elsewhere."""
