"""One layer of the decoder: attention, then feed-forward, each behind a norm and added to the residual stream."""

from torch import nn

from dreamlm.core.nn.attention import Attention
from dreamlm.core.nn.feedforward import SwiGLU
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.signal import Signal


class Block(nn.Module):
    """Pre-norm transformer block; its state in the carry is the key/value cache.

    Source: Xiong et al. 2020 (pre-norm); Zhang & Sennrich 2019 (RMSNorm).
    """

    def __init__(
        self,
        name: str,
        hidden_size: int,
        attention: Attention,
        feed_forward: SwiGLU,
        norm_epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.attention_norm = RMSNorm(hidden_size, norm_epsilon)
        self.attention = attention
        self.feed_forward_norm = RMSNorm(hidden_size, norm_epsilon)
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, signal: Signal) -> Signal:
        mixed_BTD, cache = self.attention(
            self.attention_norm(signal.hidden), signal.segment, signal.carry.states[self.name]
        )
        hidden_BTD = signal.hidden + self.dropout(mixed_BTD)
        hidden_BTD = hidden_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_BTD)))
        return signal.with_hidden(hidden_BTD).with_state(self.name, cache)
