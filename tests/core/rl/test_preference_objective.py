"""The loss of a preference: Bradley-Terry with lapses."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_rewards import SHAPES, TOKENIZER, cat_pairs, reward_model

from dreamlm.core.objectives.preference import PairBatch, PreferenceObjective, preference_nll
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.pair import Pair
from dreamlm.core.rl.pair_reading import ReadPair, read_pairs_as_tokens

MARGINS = st.floats(-30, 30)
CONFIDENCES = st.floats(0.0, 0.999)


def nll(margin: float, confidence: float) -> float:
    both = (torch.tensor([value], dtype=torch.float64) for value in (margin, confidence))
    return float(preference_nll(*both))


@given(MARGINS, CONFIDENCES)
def test_the_loss_is_that_of_a_share_of_labels_thrown_by_a_coin(margin: float, confidence: float) -> None:
    naive = confidence / (1 + math.exp(-margin)) + (1 - confidence) / 2
    assert nll(margin, confidence) == pytest.approx(-math.log(naive), rel=1e-9, abs=1e-12)


@given(MARGINS, CONFIDENCES)
def test_one_of_the_two_is_preferred(margin: float, confidence: float) -> None:
    assert math.exp(-nll(margin, confidence)) + math.exp(-nll(-margin, confidence)) == pytest.approx(1)


@given(st.floats(-1e4, 1e4), CONFIDENCES)
def test_a_label_costs_little_however_wrong_the_model_is(margin: float, confidence: float) -> None:
    margins = torch.tensor([margin], requires_grad=True)
    loss = preference_nll(margins, torch.tensor([confidence]))
    loss.sum().backward()
    assert -1e-6 <= loss.item() <= math.log(2000) + 0.1
    assert margins.grad is not None
    assert -1 <= margins.grad.item() <= 0


def read(pairs: Sequence[Pair]) -> tuple[ReadPair, ...]:
    return read_pairs_as_tokens(pairs, TOKENIZER, 32).pairs


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_are_sums_over_the_pairs(shape: str) -> None:
    pairs = read(cat_pairs(5))
    model = reward_model(shape, shaken=True)
    objective = PreferenceObjective(model)
    losses = objective(*PairBatch(pairs, TOKENIZER.padding_id).inputs(torch.device("cpu")))
    judged = model.judge_readings([side for pair in pairs for side in (pair.chosen, pair.rejected)])
    expected = sum(
        nll(chosen.score - rejected.score, math.sqrt(chosen.confidence * rejected.confidence))
        for chosen, rejected in zip(judged[::2], judged[1::2], strict=True)
    )
    assert losses.objectives["preference"].item() == pytest.approx(expected, abs=1e-4)
    assert (losses.tokens.item(), losses.objectives["components"].item()) == (5, 0.0)
    assert {"token"} | losses.objectives.keys() == {"preference", "components", *model.trunk.config.loss_weights}


def test_an_auxiliary_loss_weighs_as_much_as_in_training_on_text() -> None:
    """The mean balance of the gates is about 1 for each token there, so it has to be about 1 for each pair here."""
    pairs = read(cat_pairs(16))
    losses = PreferenceObjective(reward_model("experts"))(*PairBatch(pairs, 0).inputs(torch.device("cpu")))
    [balance] = [loss for name, loss in losses.objectives.items() if name not in ("preference", "components")]
    assert 0.9 <= balance.item() / 16 <= 2


def test_everything_is_trained_under_the_name_it_has_in_a_snapshot() -> None:
    model = reward_model()
    names = dict(PreferenceObjective(model).trained())
    assert names.keys() - {name for name, _ in model.trunk.named_parameters()} == {
        "heads.components.weight", "heads.mixture", "heads.confidence.weight", "heads.confidence.bias",
    }  # fmt: skip


def test_training_draws_no_random_numbers() -> None:
    pairs = read(cat_pairs(4))
    objective = PreferenceObjective(reward_model("experts", shaken=True, dropout=0.5))
    inputs = PairBatch(pairs, TOKENIZER.padding_id).inputs(torch.device("cpu"))
    assert objective(*inputs).nll.item() == objective(*inputs).nll.item()


def test_a_measured_component_is_taught_the_measured_ranking_alone() -> None:
    def longer_is_coherent(answers: Sequence[Answer]) -> dict[str, list[float | None]]:
        return {
            "coherence": [float(len(one.text)) for one in answers],
            "correctness": [None for _ in answers],
            "creativity": [1.0 for _ in answers],
        }

    pairs = [Pair("the", "a cat sat", "a"), Pair("the", "a", "a cat sat"), Pair("the", "cat", "mat")]
    read_pairs = read_pairs_as_tokens(pairs, TOKENIZER, 32, longer_is_coherent).pairs
    assert [pair.measured_C for pair in read_pairs] == [(0, 1, 0, 0), (0, -1, 0, 0), (0, 0, 0, 0)]
    model = reward_model(shaken=True)
    inputs = PairBatch(read_pairs, TOKENIZER.padding_id).inputs(torch.device("cpu"))
    judged = model.judge_readings([side for pair in read_pairs for side in (pair.chosen, pair.rejected)])
    rises = [
        a.components["coherence"] - b.components["coherence"] for a, b in zip(judged[::2], judged[1::2], strict=True)
    ]
    expected = math.log1p(math.exp(-rises[0])) + math.log1p(math.exp(rises[1]))
    assert PreferenceObjective(model)(*inputs).objectives["components"].item() == pytest.approx(expected, abs=1e-4)


def test_pairs_that_only_the_lost_tokens_tell_apart_are_left_out() -> None:
    end = "the cat sat on the mat " * 6
    found = read_pairs_as_tokens([Pair("a", "cat " + end, "dog " + end), Pair("a", "cat", "dog")], TOKENIZER, 32)
    assert (len(found.pairs), found.cut, found.same) == (1, 2, 1)
