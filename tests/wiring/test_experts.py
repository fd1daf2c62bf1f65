"""A preset with experts trains like any other, and what its parts report reaches the metrics."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from workplace import Workplace

from dreamlm.core.errors import Interrupted
from dreamlm.core.training.hooks import Hook, StepReport
from dreamlm.data_sources.progress import Silence
from dreamlm.wiring.training import TrainRequest, train

EXPERTS = ("model.feed_forward=moe", "model.num_layers=2")


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def test_losses_by_name_and_each_layer_s_usage_reach_the_metrics(trained: Callable[..., Path]) -> None:
    steps = steps_of(trained(*EXPERTS))
    assert len(steps) == 6
    for step in steps:
        assert step["objectives"].keys() == {"token", "moe_balance"}
        assert step["objectives"]["token"] == step["nll"]
        assert 0.9 < step["objectives"]["moe_balance"] < 4.0  # 1 is even use, 8 a single expert
        for layer in range(2):
            usage = step["probes"][f"layers.{layer}.usage"]
            assert len(usage) == 8
            assert sum(usage) == pytest.approx(1.0)


def test_the_balance_loss_is_weighted_as_the_preset_says(place: Workplace) -> None:
    assert place.preset().model.loss_weights == {"token": 1.0}
    weighted = place.preset("model.feed_forward.type=moe", "model.feed_forward.load_balance_weight=0.5")
    assert weighted.model.loss_weights == {"token": 1.0, "moe_balance": 0.5}


class Stopper(Hook):
    """Asks for a stop during the third step."""

    def on_step(self, report: StepReport) -> None:
        if report.step == 3:
            signal.raise_signal(signal.SIGTERM)


def test_a_resumed_run_draws_the_noise_of_the_run_that_never_stopped(place: Workplace) -> None:
    whole, broken = place.folder / "whole", place.folder / "broken"
    place.train(whole, *EXPERTS)
    with pytest.raises(Interrupted):
        train(TrainRequest(place.preset(*EXPERTS), broken, workers=1), Stopper(), Silence())
    place.train(broken, *EXPERTS)
    assert [step["nll"] for step in steps_of(broken)] == [step["nll"] for step in steps_of(whole)]
    ends = [load_file(run / "checkpoints" / "lm_current" / "model.safetensors") for run in (whole, broken)]
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
