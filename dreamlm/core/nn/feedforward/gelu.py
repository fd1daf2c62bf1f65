"""The feed-forward layer of GPT-2 and its kin."""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.config import ConfigModel
from dreamlm.core.nn.feedforward.feedforward import FeedForward
from dreamlm.core.nn.signal import Output, Segment


@final
class GELU(FeedForward):
    """down(gelu(up(x))), without biases.  Source: Hendrycks & Gimpel 2016; the tanh form, as in Radford et al. 2019."""

    class Config(ConfigModel):
        type: Literal["gelu"] = "gelu"
        loss_weights: ClassVar[Mapping[str, float]] = {}

        def default_size(self, hidden_size: int) -> float:
            return 4 * hidden_size

        def build(self, hidden_size: int, intermediate_size: int, num_layers: int) -> "GELU":
            return GELU(hidden_size, intermediate_size)

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden_BTD: Tensor, segment: Segment) -> Output:
        return Output(self.down(F.gelu(self.up(hidden_BTD), approximate="tanh")))
