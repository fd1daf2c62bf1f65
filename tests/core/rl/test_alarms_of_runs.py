"""Each alarm in a run: when exactly its sign shows, the run pauses, saved, and says what it saw."""

import math
from collections.abc import Mapping

import pytest
from stand_ins import HEALTHY, Iterations

from dreamlm.core.errors import Paused

SIGNS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "entropy": (
        {"entropy": 0.29},
        "entropy is 0.290 nats per token, below 10% of the first iteration's 3.00: the policy says one thing only",
    ),
    "entropy growth": (
        {"entropy": 6.01},
        "entropy is 6.010 nats per token, above 2 times the first iteration's 3.00: the policy says anything",
    ),
    "divergence": ({"kl": 1.01}, "the policy is 1.01 nats per token from the reference, beyond 1"),
    "length": ({"length": 7.9}, "answers have 7.9 tokens, below 20% of the first iteration's 40.0"),
    "ended": ({"ended": 0.05, "answers": 64}, "5% of the answers end, below 10% of 60% at first"),
    "repetition": ({"repetition": 0.51}, "51% of an answer's 3-grams repeat, more than 50%"),
    "critic": ({"explained_variance": -1.01}, "the critic is worse than none: explained variance -1.01, below -1"),
    "loss not finite": ({"nll": math.nan}, "not finite: the loss or gradient of 100% of the updates, entropy"),
    "divergence not finite": ({"kl": math.nan}, "not finite: divergence"),
    "critic not finite": ({"explained_variance": math.nan}, "not finite: explained variance"),
}
"""What the second iteration measures, and what is said of it."""
JUST_WELL = {
    "entropy": 0.31, "kl": 0.99, "length": 8.1, "ended": 0.061, "repetition": 0.5, "explained_variance": -0.99,
    "answers": 64,
}  # fmt: skip
AT_ONCE = {"alarms": {"pause": True, "patience": 1}}


@pytest.mark.parametrize("sign", SIGNS)
def test_each_alarm_pauses_its_run_behind_a_snapshot_and_says_what_it_saw(sign: str) -> None:
    change, what = SIGNS[sign]
    run = Iterations([HEALTHY, change, HEALTHY], **AT_ONCE)
    with pytest.raises(Paused) as caught:
        run.run()
    assert (caught.value.iteration, caught.value.alarms) == (2, (what,))
    assert caught.value.what.startswith(f"paused by an alarm at iteration 2: {what}; a snapshot was saved")
    assert [(saved.step, saved.watch.backoffs, saved.rate_factor) for saved in run.saves.states] == [(2, 1, 0.5)]
    assert [(end.reason, end.step) for end in run.reports.ends] == [("paused", 2)]
    assert run.reports.notices[-1].startswith(f"alarm at iteration 2: {what}; the learning rate falls to 0.0005")


def test_figures_just_within_their_limits_are_no_alarm() -> None:
    run = Iterations([HEALTHY, JUST_WELL, {**JUST_WELL, "entropy": 5.99}], **AT_ONCE)
    assert run.run().watch.backoffs == 0
    assert [saved.step for saved in run.saves.states] == [3]
    assert [end.reason for end in run.reports.ends] == ["finished"]
