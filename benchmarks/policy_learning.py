"""Whether a policy learns: the same model and prompts, several seeds, PPO and REINFORCE, judged on held-out prompts.

    python benchmarks/policy_learning.py --from RUN --preset FILE --out FOLDER [--seeds 0 1 2 3 4] [--set KEY=VALUE ...]

One run for each algorithm and seed, one after another; a finished run is not made again, an interrupted one goes on.
Prints a table and writes FOLDER/curves.png: held-out reward with its 95 % interval before and after, the divergence
from the reference at the end, and the variance of the reward between iterations of the last half, around its trend.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ALGORITHMS = ("ppo", "reinforce")


def learn(origin: Path, preset: Path, sets: list[str], algorithm: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train, or go on; the events of the run."""
    words = [word for one in (*sets, f"rl.ppo.algorithm={algorithm}") for word in ("--set", one)]
    command = [sys.executable, "-m", "dreamlm.cli", "rl", "--from", str(origin), "--preset", str(preset)]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        subprocess.run(
            [*command, "--run", str(folder), "--seed", str(seed), *words], check=True, stdout=log, stderr=log
        )
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def judged(events: list[dict[str, Any]]) -> dict[str, float]:
    """What one run came to."""
    rewards, iterations = of(events, "reward"), of(events, "iteration")
    before, after = rewards[0], rewards[-1]
    half = iterations[len(iterations) // 2 :]
    apart = math.hypot(*(half_width(one["reward_interval"]) for one in (before, after)))
    return {
        "before": before["reward"],
        "after": after["reward"],
        "gain": after["reward"] - before["reward"],
        "gain_error": apart,
        "kl": after["kl"],
        "highest_kl": max(one["kl"] for one in iterations),
        "variance": around_trend([one["reward"] for one in half]),
        "seconds": sum(one["seconds"] for one in iterations),
    }


def half_width(interval: list[float] | None) -> float:
    """NaN where a reward has no interval."""
    return math.nan if interval is None else (interval[1] - interval[0]) / 2


def around_trend(values: list[float]) -> float:
    """Variance of what a straight line through the values leaves over."""
    steps = range(len(values))
    slope, level = statistics.linear_regression(steps, values)
    return math.fsum((value - level - slope * step) ** 2 for step, value in zip(steps, values, strict=True)) / (
        len(values) - 2
    )


def draw(runs: dict[tuple[str, int], list[dict[str, Any]]], path: Path) -> None:
    """Held-out reward, and divergence, by iteration."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(7, 7), sharex=True)
    for (algorithm, _), events in runs.items():
        colour = {"ppo": "tab:blue", "reinforce": "tab:orange"}[algorithm]
        rewards, iterations = of(events, "reward"), of(events, "iteration")
        upper.plot([one["step"] for one in rewards], [one["reward"] for one in rewards], color=colour, alpha=0.7)
        lower.plot([one["step"] for one in iterations], [one["kl"] for one in iterations], color=colour, alpha=0.7)
    upper.set_ylabel("held-out reward")
    lower.set_ylabel("KL from the reference, nats per token")
    lower.set_xlabel("iteration; blue PPO, orange REINFORCE")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="origin", type=Path, required=True)
    parser.add_argument("--preset", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = {}
    print(
        f"{'algorithm':10} {'seed':>4} {'before':>7} {'after':>7} {'gain':>16} {'KL':>6} {'highest':>7} {'variance':>9}"
    )
    for seed in options.seeds:
        for algorithm in options.algorithms:
            folder = options.out / f"{algorithm}-{seed}"
            runs[algorithm, seed] = learn(options.origin, options.preset, options.sets, algorithm, seed, folder)
            found = judged(runs[algorithm, seed])
            gain = f"{found['gain']:+.3f} +- {found['gain_error']:.3f}"
            print(
                f"{algorithm:10} {seed:4} {found['before']:7.3f} {found['after']:7.3f} {gain:>16} {found['kl']:6.3f} "
                f"{found['highest_kl']:7.3f} {found['variance']:9.2e}",
                flush=True,
            )
    draw(runs, options.out / "curves.png")


if __name__ == "__main__":
    main()
