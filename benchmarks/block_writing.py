"""Time to write a token: a causal model against a diffusion model of the same size, at several steps for a block.

    python benchmarks/block_writing.py [--rounds 7] [--rows 1 16] [--block 16]

Random weights, so no text ends early; 64 tokens behind a prompt of 64. In every round all variants take their turn, so
the machine's other load falls on all alike. Prints the median time of a token and its ratio to the causal model's.
"""

import argparse
import statistics
import time

import torch

from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import BytePair, Tokenizer

NEW = 64
TRUNK = {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "seq_length": 256}


def model(tokenizer: Tokenizer, block: int | None) -> DreamLM:
    torch.manual_seed(0)
    diffusion = {} if block is None else {"diffusion": {"block_size": block}}
    return DreamLM.Config.model_validate({**TRUNK, **diffusion}).build(tokenizer.vocab_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--block", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    text = "The sea was calm that night, and the captain said that the sea is never calm for long. " * 40
    tokenizer = BytePair(vocab_size=400).build([text])
    prompt = tokenizer.decode(tokenizer.encode(text)[:63])
    causal, diffuser = model(tokenizer, None), model(tokenizer, asked.block)
    steps = sorted({1, 4, 16, asked.block} & set(range(1, asked.block + 1)))
    print(f"torch {torch.__version__}, 1 thread, {asked.rounds} rounds, blocks of {asked.block}, top-p 0.9")
    for rows in asked.rows:
        seconds: dict[str, list[float]] = {}
        for number in range(asked.rounds + 1):
            for name, writer, denoising in [
                ("causal", causal, {}),
                *((f"{count} steps", diffuser, {"steps": count}) for count in steps),
            ]:
                config = Sampler.Config.model_validate(
                    {"top_p": 0.9, "min_new_tokens": NEW, "max_new_tokens": NEW, "rows": rows, "denoising": denoising}
                )
                begun = time.perf_counter()
                written = generate(writer, tokenizer, [prompt] * rows, config)
                assert all(len(one.token_ids) == NEW for one in written)
                if number:
                    seconds.setdefault(name, []).append((time.perf_counter() - begun) / NEW)
        base = statistics.median(seconds["causal"])
        print(f"\n{rows} rows         ms a token of each row   speed")
        for name, taken in seconds.items():
            print(f"{name:12}{statistics.median(taken) * 1e3:20.2f}{base / statistics.median(taken):14.2f}x")


if __name__ == "__main__":
    main()
