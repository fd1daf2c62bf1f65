"""What a preset says of training is what the backend of its run was given."""

from typing import Any

import pytest
from workplace import Workplace

from dreamlm.core.training.backend import choose
from dreamlm.core.training.backend.single import SingleProcess


def test_a_run_trains_with_the_options_of_its_preset(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []

    class Watched(SingleProcess):
        def __init__(self, *parts: Any, **options: Any) -> None:
            given.append((*parts, options))
            super().__init__(*parts, **options)

    monkeypatch.setattr(choose, "SingleProcess", Watched)
    experts = ("model.feed_forward.type=moe", "model.feed_forward.load_balance_weight=0.5")
    steps = ("train.max_grad_norm=0.25", "train.label_smoothing=0.3", "train.optimizer.learning_rate=0.002")
    place.train(place.folder / "run", *experts, *steps, "model.dropout=0.1")
    ((objective, optimizer, loss_weights, max_grad_norm, precision, compiled, options),) = given
    assert (objective.label_smoothing, objective.model.config.dropout) == (0.3, 0.1)
    assert loss_weights == {"token": 1.0, "moe_balance": 0.5}
    assert (optimizer.learning_rate, max_grad_norm) == (0.002, 0.25)
    assert (precision, compiled, options) == ("fp32", False, {})
