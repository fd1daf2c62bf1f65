"""Forward and backward of the segment-recurrent decoder without modules against plain decoders with the same weights.

    python benchmarks/decoder.py [--precision bf16 fp32] [--rounds 15]

`plain` is the decoder one would write by hand: the same products, no signal, no carry, no segments. `transformers` is
its Qwen3, the stock architecture that computes the same. All take turns on the same batch, each round beginning with
the next of them, because what ran before leaves its traces in the cache; the ratio is the median over rounds of their
times. Before anything is timed, all three must agree on the loss.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from dreamlm.core.heads.lm import LanguageModelHead
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective

CONFIG = DreamLM.Config(hidden_size=320, num_layers=6, num_heads=5, seq_length=256)
VOCAB, ROWS = 8192, 16


class PlainBlock(nn.Module):
    def __init__(self, source: nn.Module, heads: int) -> None:
        super().__init__()
        self.source, self.heads = source, heads

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        attention, mlp = self.source.attention, self.source.feed_forward
        rows, length, width = hidden.shape
        normed = self.source.attention_norm(hidden)
        query, key, value = (
            projection(normed).view(rows, length, self.heads, -1).transpose(1, 2)
            for projection in (attention.query, attention.key, attention.value)
        )
        query, key = (turn(x, cosine, sine) for x in (attention.query_norm(query), attention.key_norm(key)))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + attention.output(mixed.transpose(1, 2).reshape(rows, length, width))
        normed = self.source.feed_forward_norm(hidden)
        return hidden + mlp.down(F.silu(mlp.gate(normed)) * mlp.up(normed))


def turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat([-second, first], dim=-1) * sine


class Plain(nn.Module):
    """The weights of a `DreamLM`, run by hand."""

    def __init__(self, model: DreamLM) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = model.embedding, model.norm, model.head
        self.blocks = nn.ModuleList(PlainBlock(layer, CONFIG.num_heads) for layer in model.layers)
        width = CONFIG.hidden_size // CONFIG.num_heads
        frequency = 10_000.0 ** (-torch.arange(0, width, 2).float() / width)
        angle = torch.arange(CONFIG.seq_length)[:, None].float() * frequency
        self.angle = torch.cat([angle, angle], dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        cosine, sine = self.angle.cos().to(dtype), self.angle.sin().to(dtype)
        hidden = self.embedding(tokens[:, :-1])
        for block in self.blocks:
            hidden = block(hidden, cosine, sine)
        return chunked_loss(self.head, self.norm(hidden), tokens)


def chunked_loss(head: LanguageModelHead, hidden: Tensor, tokens: Tensor) -> Tensor:
    return head(hidden.flatten(0, 1), tokens[:, 1:].flatten(), 0.0)[0] / tokens[:, 1:].numel()


def ours(model: DreamLM) -> Callable[[Tensor], Tensor]:
    objective = CausalObjective(model, 0.0)

    def loss(tokens: Tensor) -> Tensor:
        losses = objective(tokens, torch.zeros_like(tokens, dtype=torch.int32), False)
        return losses.objectives["token"] / losses.tokens

    return loss


def stock(model: DreamLM) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=CONFIG.hidden_size, intermediate_size=CONFIG.feed_forward_size,
        num_hidden_layers=CONFIG.num_layers, num_attention_heads=CONFIG.num_heads,
        num_key_value_heads=CONFIG.kv_heads, head_dim=CONFIG.hidden_size // CONFIG.num_heads,
        max_position_embeddings=CONFIG.seq_length, rms_norm_eps=CONFIG.norm_epsilon, tie_word_embeddings=True,
        use_cache=False,
    )  # fmt: skip
    other = Qwen3ForCausalLM(config)
    base = other.model
    with torch.no_grad():
        base.embed_tokens.weight.copy_(model.embedding.weight)
        base.norm.weight.copy_(model.norm.weight)
        for theirs, mine in zip(base.layers, model.layers, strict=True):
            for name, weight in (
                ("self_attn.q_proj", mine.attention.query), ("self_attn.k_proj", mine.attention.key),
                ("self_attn.v_proj", mine.attention.value), ("self_attn.o_proj", mine.attention.output),
                ("mlp.gate_proj", mine.feed_forward.gate), ("mlp.up_proj", mine.feed_forward.up),
                ("mlp.down_proj", mine.feed_forward.down),
            ):  # fmt: skip
                theirs.get_submodule(name).weight.copy_(weight.weight)
    return other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = CONFIG.build(VOCAB)
    other = stock(model)
    candidates: dict[str, Callable[[Tensor], Tensor]] = {
        "dreamlm": ours(model),
        "plain": Plain(model),
        "transformers": lambda tokens: F.cross_entropy(
            other(tokens[:, :-1]).logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        ),
    }
    tokens = torch.randint(0, VOCAB, (ROWS, CONFIG.seq_length + 1))
    losses = [loss(tokens).item() for loss in candidates.values()]
    assert max(losses) - min(losses) < 1e-4, losses
    names = list(candidates)
    for precision in options.precision:
        times: dict[str, list[float]] = {name: [] for name in names}
        for number in range(options.rounds + 2):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begin = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    value = candidates[name](tokens)
                value.backward()
                if number >= 2:
                    times[name].append(time.perf_counter() - begin)
        for name, seconds in times.items():
            ratio = statistics.median(s / mine for s, mine in zip(seconds, times["dreamlm"], strict=True))
            milliseconds = statistics.median(seconds) * 1e3
            print(f"{precision} {name:13} {milliseconds:8.1f} ms   speed of dreamlm / this: {ratio:.3f}")


if __name__ == "__main__":
    main()
