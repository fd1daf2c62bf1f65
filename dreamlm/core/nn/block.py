"""One layer of the decoder: attention, then feed-forward, each behind a norm and added to the residual stream."""

from torch import nn

from dreamlm.core.nn.attention import Attention
from dreamlm.core.nn.feedforward.feedforward import FeedForward
from dreamlm.core.nn.signal import Output, Signal


class Block(nn.Module):
    """Pre-norm transformer block; its state in the carry is the key/value cache.

    Source: Xiong et al. 2020.
    """

    def __init__(
        self,
        name: str,
        attention_norm: nn.Module,
        attention: Attention,
        feed_forward_norm: nn.Module,
        feed_forward: FeedForward,
        dropout: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.attention_norm, self.attention = attention_norm, attention
        self.feed_forward_norm, self.feed_forward = feed_forward_norm, feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, signal: Signal) -> Signal:
        mixed_BTD, cache = self.attention(
            self.attention_norm(signal.hidden), signal.segment, signal.carry.states[self.name]
        )
        hidden_BTD = signal.hidden + self.dropout(mixed_BTD)
        mapped: Output = self.feed_forward(self.feed_forward_norm(hidden_BTD), signal.segment)
        signal = signal.with_hidden(hidden_BTD + self.dropout(mapped.hidden)).with_state(self.name, cache)
        return signal.with_losses(mapped.losses).with_probes(self.name, mapped.probes)

    def remember(self, signal: Signal) -> Signal:
        """Only the state that `forward` leaves in the carry; the vectors stay as they came."""
        normal_BTD, past = self.attention_norm(signal.hidden), signal.carry.states[self.name]
        return signal.with_state(self.name, self.attention.remember(normal_BTD, signal.segment, past))
