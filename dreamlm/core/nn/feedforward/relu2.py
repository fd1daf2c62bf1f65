"""The feed-forward layer of Primer."""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.config import ConfigModel
from dreamlm.core.nn.feedforward.feedforward import FeedForward
from dreamlm.core.nn.signal import Output, Segment


@final
class ReLU2(FeedForward):
    """down(relu(up(x))^2), without biases.  Source: So et al. 2021, "Primer", section 4."""

    class Config(ConfigModel):
        type: Literal["relu2"] = "relu2"
        loss_weights: ClassVar[Mapping[str, float]] = {}

        def default_size(self, hidden_size: int) -> float:
            return 4 * hidden_size

        def build(self, hidden_size: int, intermediate_size: int, num_layers: int) -> "ReLU2":
            return ReLU2(hidden_size, intermediate_size)

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden_BTD: Tensor, segment: Segment) -> Output:
        return Output(self.down(F.relu(self.up(hidden_BTD)).square()))
