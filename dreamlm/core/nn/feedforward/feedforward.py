"""What every position-wise layer of a block obeys.

Shapes: B rows, T tokens, D width of the residual stream, F width inside.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from dreamlm.core.nn.signal import Output, Segment


class FeedForward(nn.Module, ABC):
    """Maps each token's vector by itself; what writes to the residual stream is a layer named `down`.

    Its `Config` adds `loss_weights` (by the names of `Output.losses`), `default_size(hidden_size)` and
    `build(hidden_size, intermediate_size, num_layers)`.
    """

    @abstractmethod
    def forward(self, hidden_BTD: Float[Tensor, "B T D"], segment: Segment) -> Output:
        """What is added to the residual stream, with the losses and probes that belong to it."""
