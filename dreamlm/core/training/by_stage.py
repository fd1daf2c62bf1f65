"""What a run with a curriculum measured in each of its stages, read from the lines of `metrics.jsonl`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def by_stage(steps: Iterable[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stages in the order they came, each with its steps and the losses in it, in nats per token.

    `nll` is the mean over its steps whose loss was finite, `last_nll` that of the last one; `validation_nll` the newest
    held-out loss of the model in this stage. Each is null where there is none.
    """
    stages: dict[str, dict[str, Any]] = {}
    losses: dict[str, list[float]] = {}
    for step in steps:
        if step.get("stage") is None:
            continue
        name = step["stage"]["name"]
        first = {"name": name, "first_step": step["step"], "seconds": 0.0}
        stage = stages.setdefault(name, first)
        stage["last_step"], stage["tokens"] = step["step"], step["tokens"]
        stage["seconds"] += step["seconds"]
        losses.setdefault(name, []).extend([step["nll"]] if isinstance(step["nll"], float) else [])
    held_out = {one["stage"]["name"]: one["nll"] for one in evaluations if one.get("stage")}
    for name, stage in stages.items():
        finite = losses[name]
        stage["nll"] = sum(finite) / len(finite) if finite else None
        stage["last_nll"] = finite[-1] if finite else None
        stage["validation_nll"] = held_out.get(name)
    return list(stages.values())
