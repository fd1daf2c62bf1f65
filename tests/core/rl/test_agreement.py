"""Two passes over the same answers: what rounding explains goes on, what it does not ends the run."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import KINDS, PROMPTS, small_model, small_tokenizer
from stand_ins import Iterations, Recording

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.rl.agreement import LIMITS, Disagreement, disagreement, require_agreement
from dreamlm.core.rl.policy import AnswerBatch, Policy
from dreamlm.core.rl.rollout import RolloutConfig, Vocabulary, roll_out

ONE = [np.array([-1.0, -2.0]), np.array([-3.0, math.nan])]
OTHER = [np.array([-1.0, -2.3]), np.array([-2.6, -1.0])]


def test_the_disagreement_counts_the_tokens_of_all_processes() -> None:
    @dataclass
    class Second(Recording):
        """The second of two processes; the first saw seven tokens, one of them 0.9 nats apart."""

        rank: int = 1
        world_size: int = 2

        def sum(self, values: Any) -> list[float]:
            return [mine + theirs for mine, theirs in zip(values, (7.0, 1.0, 0.9, 0.0), strict=True)]

    whole = [one_N[:1] for one_N in ONE], [one_N[:1] for one_N in OTHER]
    backend: Any = Recording()
    alone = disagreement(*whole, 1.0, backend)
    assert (alone.tokens, alone.beyond, alone.largest) == (2, 1, pytest.approx(0.4))
    other: Any = Second()
    both = disagreement(*whole, 1.0, other)
    assert (both.tokens, both.beyond, both.largest) == (9, 2, pytest.approx(0.9))


def test_a_distance_that_is_no_number_is_beyond_every_limit() -> None:
    backend: Any = Recording()
    found = disagreement(ONE, OTHER, 1.0, backend)
    assert (found.tokens, found.beyond) == (4, 3)
    assert math.isnan(found.largest)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("precision", "device", "name"), [("fp32", "cpu", "fp32"), ("bf16", "cpu", "bf16"), ("fp32", "cuda", "tf32")]
)
def test_each_format_has_its_limit_which_the_temperature_divides(
    precision: str, device: str, name: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    backend: Any = Recording(precision=precision, device=torch.device(device))
    limit = LIMITS[name] / temperature
    found = disagreement([np.array([0.99 * limit, 1.01 * limit])], [np.zeros(2)], temperature, backend)
    assert (found.tokens, found.beyond) == (2, 1)


@pytest.mark.parametrize(
    ("tokens", "beyond", "fails"), [(50, 2, False), (50, 3, True), (5000, 52, False), (5000, 53, True)]
)
def test_few_tokens_may_be_further_apart(tokens: int, beyond: int, fails: bool) -> None:
    backend: Any = Recording(precision="bf16")
    if not fails:
        require_agreement(Disagreement(tokens, beyond, 1.1), 1.0, backend)
        return
    with pytest.raises(TrainingFailed) as caught:
        require_agreement(Disagreement(tokens, beyond, 1.1), 1.0, backend)
    assert caught.value.what == (
        f"writing and training disagree on the log-probability of {beyond} of {tokens:,} tokens by more than 0.2 "
        "nats, and by up to 1.1"
    )


@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1.01e-3), ("fp32", math.nan), ("bf16", math.nan)])
def test_not_even_one_token_may_be_anywhere_in_fp32_or_no_number(precision: str, largest: float) -> None:
    backend: Any = Recording(precision=precision)
    require_agreement(Disagreement(5000, 1, 0.99e-3), 1.0, backend)
    with pytest.raises(TrainingFailed, match="of 1 of 5,000 tokens"):
        require_agreement(Disagreement(5000, 1, largest), 1.0, backend)


def test_a_run_whose_passes_disagree_ends_on_record_before_its_first_update() -> None:
    run = Iterations([{}])
    run.collector.disagreement = Disagreement(10, 10, 1.0)
    with pytest.raises(TrainingFailed, match="disagree on the log-probability of 10 of 10 tokens"):
        run.run()
    assert (run.backend.seen, [end.reason for end in run.reports.ends]) == ([], ["failed"])


MODELS: dict[str, dict[str, Any]] = {
    **KINDS,
    "thoughts": {"segment_length": 8, "modules": [{"type": "thought_stack", "thought_dims": [4, 4, 2]}]},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", MODELS)
def test_what_rounding_does_to_a_small_policy_is_within_the_limits_and_a_wrong_token_is_not(
    kind: str, precision: str
) -> None:
    model, tokenizer = small_model("plain", **MODELS[kind]), small_tokenizer()
    policy = Policy(model, 1.0, Vocabulary.of(model, tokenizer)).eval()
    backend: Any = Recording(precision=precision)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        rollouts = roll_out(model, tokenizer, PROMPTS[:4] * 5, RolloutConfig(max_new_tokens=20), range(20))
        answers = AnswerBatch.of(rollouts)
        opinions = [policy(answers)[0]]
        answers.tokens_BT[:, 1] = 5
        opinions.append(policy(answers)[0])
    written_N = np.concatenate([one.log_probabilities_N for one in rollouts]).astype(np.float64)
    right, wrong = (
        disagreement([written_N], [opinion.log_probability_N.double().numpy()], 1.0, backend) for opinion in opinions
    )
    require_agreement(right, 1.0, backend)
    assert right.largest > 0
    with pytest.raises(TrainingFailed):
        require_agreement(wrong, 1.0, backend)
