"""The gated feed-forward layer of Llama and its kin."""

from collections.abc import Mapping
from typing import ClassVar, Literal, final

from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.config import ConfigModel
from dreamlm.core.nn.feedforward.feedforward import FeedForward
from dreamlm.core.nn.signal import Output, Segment


@final
class SwiGLU(FeedForward):
    """down(silu(gate(x)) * up(x)), without biases.  Source: Shazeer 2020, "GLU Variants Improve Transformer"."""

    class Config(ConfigModel):
        type: Literal["swiglu"] = "swiglu"
        loss_weights: ClassVar[Mapping[str, float]] = {}

        def default_size(self, hidden_size: int) -> float:
            """8/3 of the residual width: three matrices with the weights of the usual two."""
            return hidden_size * 8 / 3

        def build(self, hidden_size: int, intermediate_size: int, num_layers: int) -> "SwiGLU":
            return SwiGLU(hidden_size, intermediate_size)

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden_BTD: Tensor, segment: Segment) -> Output:
        expanded_BTF = F.silu(self.gate(hidden_BTD)) * self.up(hidden_BTD)
        return Output(self.down(expanded_BTF))
