"""A preset that dreams trains like any other, and what it shows reaches the metrics by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SIZES = {
    "num_dream_sequences": 2,
    "dream_length": 2,
    "expert_num_layers": 1,
    "expert_num_heads": 4,
    "num_edge_types": 3,
}
DREAMS = (
    "model.segment_length=8",
    f"model.modules={json.dumps([{'type': 'dreaming', 'graph_num_heads': 4, **SIZES}])}",
)


def test_losses_and_probes_of_dreams_reach_the_metrics(trained: Callable[..., Path]) -> None:
    events = [json.loads(line) for line in (trained(*DREAMS) / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == 6
    for step in steps:
        assert step["objectives"].keys() == {"token", "dreaming.balance"}
        # Three of four segments are written; 1 is even use, 4 a single expert.
        assert 0.9 < step["objectives"]["dreaming.balance"] / (3 / 4) < 4.0
        probes = {name.removeprefix("dreaming."): values for name, values in step["probes"].items()}
        assert probes.keys() == {
            *("usage", "usage_entropy", "distance"),
            *("edges.temporal", "edges.spatial", "edges.causal"),
        }
        assert len(probes["usage"]) == 4
        assert sum(probes["usage"]) == pytest.approx(1.0)
        assert 0.0 < probes["distance"][0] < 2.0
        assert sum(probes[f"edges.{name}"][0] for name in ("temporal", "spatial", "causal")) == pytest.approx(1.0)
