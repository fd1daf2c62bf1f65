"""Which recipe learns most from a fixed budget: one model for each trial and seed, measured on all held-out text.

    python benchmarks/recipe.py TRIALS.json --text FILE.jsonl --out FOLDER [--seeds 0 1] [--only NAME ...]

TRIALS.json: {"base": PRESET, "trials": {NAME: {"model.num_layers": 6, ...}}}; a trial changes the base by dotted keys,
and may name another trial in "from", and tricks of `tricks.py` in "trick". One after another, so that times compare; a
finished trial is not run again. Writes FOLDER/results.jsonl and prints a table: bits per byte of every held-out token,
and seconds of training. A diffusion model has a bound's; `bound_error` is the standard error of its estimation, in
bits per byte. With `--against NAME` the table has differences to that trial, seed by seed, and the 95 % interval of
their mean (Student's t).
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Changes = Mapping[str, Any]
TRICK = "trick"
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""97.5 % quantile of Student's t for the mean of so many differences."""


def settings(trials: Mapping[str, Changes], name: str) -> dict[str, Any]:
    """The changes of a trial upon those it starts from."""
    own = dict(trials[name])
    parent = own.pop("from", None)
    return {**(settings(trials, parent) if parent else {}), **own}


def run(base: Path, changes: Changes, seed: int, folder: Path) -> dict[str, Any]:
    """Train, then measure the newest snapshot; what a trial is judged by."""
    keys = {key: json.dumps(value) for key, value in changes.items() if key != TRICK}
    sets = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    tricks = str(Path(__file__).with_name("tricks.py"))
    command = [sys.executable, *([tricks, changes[TRICK]] if TRICK in changes else ["-m", "dreamlm.cli"])]
    where = ["--run", str(folder)]
    train = [*command, "train", "--preset", str(base), *where, "--seed", str(seed), *sets]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        subprocess.run(train, check=True, stdout=log, stderr=log)
    measured = subprocess.run([*command, "eval", *where, "--json"], check=True, capture_output=True, text=True)
    report, found = json.loads((folder / "training_report.json").read_text()), json.loads(measured.stdout)
    start = report["start"]
    return {
        "bits_per_byte": found["bits_per_byte"],
        "bound_error": found["monte_carlo_error"] * found["bits_per_byte"] / found["cross_entropy"],
        "seconds": report["end"]["seconds"],
        "parameters": start["parameters"],
        "embedding": start["vocab_size"],
        "tokens": report["end"]["tokens"],
        "steps": report["end"]["step"],
    }


def difference(mine: Mapping[int, float], reference: Mapping[int, float]) -> str:
    """Mean of the differences over the seeds that both have, with its 95 % interval where there are several."""
    each = [bits - reference[seed] for seed, bits in mine.items() if seed in reference]
    if len(each) not in STUDENT:
        return f"{each[0]:+.4f}" if each else ""
    half = STUDENT[len(each)] * statistics.stdev(each) / len(each) ** 0.5
    return f"{statistics.mean(each):+.4f} +-{half:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--against")
    options = parser.parse_args()
    plan = json.loads(options.trials.read_text())
    options.out.mkdir(parents=True, exist_ok=True)
    base = options.out / "base.json"
    source = {"type": "jsonl", "name": "text", "paths": [str(options.text.resolve())]}
    base.write_text(json.dumps({**plan["base"], "data": {"sources": [source], **plan["base"].get("data", {})}}))
    results = options.out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for name in options.only or plan["trials"]:
        changes = settings(plan["trials"], name)
        for seed in options.seeds:
            if any((one["trial"], one["seed"]) == (name, seed) for one in done):
                continue
            measured = run(base, changes, seed, options.out / f"{name}-{seed}")
            done.append({"trial": name, "seed": seed, "changes": changes, **measured})
            with results.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(f"{name} seed {seed}: {measured['bits_per_byte']:.4f} in {measured['seconds']:.0f} s", flush=True)
    bits: dict[str, dict[int, float]] = {}
    for one in sorted(done, key=lambda one: one["seed"]):
        bits.setdefault(one["trial"], {})[one["seed"]] = one["bits_per_byte"]
    print(f"\n{'trial':44} {'bits per byte':>13}  {'seeds':26}  {'seconds':>7}  difference")
    for name, mine in bits.items():
        each = " ".join(f"{value:.4f}" for value in mine.values())
        seconds = statistics.mean(one["seconds"] for one in done if one["trial"] == name)
        against = difference(mine, bits.get(options.against, {}))
        print(f"{name:44} {statistics.mean(mine.values()):13.4f}  {each:26}  {seconds:7.0f}  {against}")


if __name__ == "__main__":
    main()
