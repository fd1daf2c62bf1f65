"""A feed-forward layer that learns its activation."""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.config import ConfigModel
from dreamlm.core.nn.feedforward.feedforward import FeedForward
from dreamlm.core.nn.signal import Output, Segment


@final
class Learnable(FeedForward):
    """down(mix(up(x))), without biases."""

    class Config(ConfigModel):
        type: Literal["learnable"] = "learnable"
        loss_weights: ClassVar[Mapping[str, float]] = {}

        def default_size(self, hidden_size: int) -> float:
            return 4 * hidden_size

        def build(self, hidden_size: int, intermediate_size: int, num_layers: int) -> "Learnable":
            return Learnable(hidden_size, intermediate_size)

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.activation = ActivationMix(intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden_BTD: Tensor, segment: Segment) -> Output:
        return Output(self.down(self.activation(self.up(hidden_BTD))))


@final
class ActivationMix(nn.Module):
    """Each channel's own mixture a * gelu(x) + b * relu(x)^2 + c * tanh(x); at first exactly gelu (its tanh form).

    One grows like x, one faster, one stays bounded and is odd. Each is exact to rounding in bf16, which a quotient of
    polynomials is not, and none has poles. The mixture's weights are vectors: they do not decay.
    Source: Manessi & Rozza 2018, "Learning combinations of activation functions".  Departs: free weights for each
    channel, not a convex mixture for each layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gelu = nn.Parameter(torch.ones(channels))
        self.relu2 = nn.Parameter(torch.zeros(channels))
        self.tanh = nn.Parameter(torch.zeros(channels))

    def forward(self, values: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        gelu, relu2, tanh = (weight.to(values.dtype) for weight in (self.gelu, self.relu2, self.tanh))
        smooth = gelu * F.gelu(values, approximate="tanh")
        return smooth + relu2 * F.relu(values).square() + tanh * values.tanh()
