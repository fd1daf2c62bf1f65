"""The parts of a decoder, built from its configuration, and how a signal passes one of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dreamlm.core.modules.module import CognitiveModule, Room
from dreamlm.core.nn.attention import Attention
from dreamlm.core.nn.block import Block
from dreamlm.core.nn.decoder_config import DecoderConfig
from dreamlm.core.nn.norm import build_norm
from dreamlm.core.nn.signal import Signal


def build_block(config: DecoderConfig, index: int) -> Block:
    """The layer of that number."""
    size, epsilon = config.hidden_size, config.norm_epsilon
    return Block(
        f"layers.{index}",
        build_norm(config.norm, size, epsilon),
        Attention(
            index,
            size,
            config.num_heads,
            config.kv_heads,
            config.head_size,
            config.attention_activation,
            config.attention_gate,
            config.qk_norm,
            config.norm,
            epsilon,
        ),
        build_norm(config.norm, size, epsilon),
        config.feed_forward.build(size, config.feed_forward_size, config.num_layers),
        config.dropout,
    )


def mask_vector(size: int) -> nn.Parameter:
    """As large as a token's vector."""
    return nn.Parameter(torch.empty(size).normal_(0.0, 0.3 / math.sqrt(size)))


def build_modules(config: DecoderConfig) -> Iterator[CognitiveModule]:
    """The modules by the order of the configuration."""
    room = Room(config.hidden_size, config.num_heads, config.segment, config.norm_epsilon)
    for name, one in zip(config.module_names, config.modules, strict=True):
        yield one.build(name, room)


def in_order(config: DecoderConfig, layers: Iterable[nn.Module], modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The layers, each followed by the modules that sit behind it."""
    middle = (config.num_layers - 1) // 2
    for index, layer in enumerate(layers):
        yield layer
        for one, module in zip(config.modules, modules, strict=True):
            if (middle if one.after is None else one.after) == index:
                yield module


Layer: TypeAlias = Callable[[Signal], Signal]


def remembering(config: DecoderConfig, last: Layer) -> Layer:
    """The last of a stack, without what only its vectors are for; a module needs them, and so does a loss."""
    return last if not isinstance(last, Block) or config.feed_forward.loss_weights else last.remember


def run(layer: Layer, signal: Signal) -> Signal:
    """The signal behind a layer."""
    return layer(signal)


def run_checkpointed(layer: Layer, signal: Signal) -> Signal:
    """The same, with only the layer's input kept for the backward pass."""
    result: Signal = checkpoint(layer, signal, use_reentrant=False)
    return result
