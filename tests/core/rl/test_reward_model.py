"""What the reward model says of an answer, and that nothing but the answer decides it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_rewards import SHAPES, TOKENIZER, answer, cat_pairs, reward_model

from dreamlm.core.heads.reward import COMPONENTS
from dreamlm.core.rl.pair_measuring import measure_on_pairs
from dreamlm.core.rl.pair_reading import read_pairs_as_tokens
from dreamlm.core.rl.reading import readings, side_by_side

ANSWERS = [answer("the cat", "sat on the mat"), answer("", "a"), answer("a dog " * 9, "saw the cat"), answer("a", "b")]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fresh_model_prefers_nothing(shape: str) -> None:
    pairs = read_pairs_as_tokens(cat_pairs(9), TOKENIZER, 32).pairs
    report = measure_on_pairs(reward_model(shape).judge_readings, pairs)
    assert (report.accuracy, report.mean_margin, report.calibration_error >= 0) == (0.5, 0.0, True)
    assert report.loss == math.log(2)
    assert report.mean_confidence == pytest.approx(0.5)
    assert not report.above_chance


@pytest.mark.parametrize("shape", SHAPES)
def test_a_score_does_not_depend_on_what_is_read_beside_it(shape: str) -> None:
    together = reward_model(shape, shaken=True).judge(ANSWERS)
    for rows in (1, 2, 3):
        apart = reward_model(shape, rows=rows, shaken=True).judge(ANSWERS[::-1])[::-1]
        for one, other in zip(together, apart, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
            assert one.components == pytest.approx(other.components, abs=1e-5)
    assert len({round(one.score, 3) for one in together}) == len(ANSWERS)


def test_a_score_is_the_mixture_of_the_components_at_the_last_token() -> None:
    model = reward_model(shaken=True)
    end = TOKENIZER.end_of_document_id
    ids = torch.tensor([[end, *TOKENIZER.encode("the cat"), *TOKENIZER.encode("sat on the mat"), end]])
    with torch.no_grad():
        hidden = model.trunk(ids, torch.zeros_like(ids), model.trunk.start(1)).hidden[0, -1]
        components = [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in model.heads.components.weight]
        shares = [math.exp(one) for one in model.heads.mixture]
        logit = sum(w * h for w, h in zip(model.heads.confidence.weight[0], hidden, strict=True))
        confidence = 0.999 / (1 + math.exp(-(logit + model.heads.confidence.bias[0])))
    score = sum(share * one for share, one in zip(shares, components, strict=True)) / sum(shares)
    [judged] = model.judge(ANSWERS[:1])
    assert judged.score == pytest.approx(float(score), abs=1e-5)
    assert judged.confidence == pytest.approx(float(confidence), abs=1e-5)
    assert list(judged.components.values()) == pytest.approx([float(one) for one in components], abs=1e-5)
    assert model.score(ANSWERS) == [one.score for one in model.judge(ANSWERS)]
    assert list(model.components(ANSWERS)) == list(COMPONENTS)


def test_judging_leaves_a_model_in_training_as_it_was() -> None:
    model = reward_model("experts", dropout=0.5).train()
    first = model.score(ANSWERS)
    assert (first, model.training, model.trunk.training) == (model.score(ANSWERS), True, True)


def test_no_answer_has_no_score() -> None:
    assert reward_model().score([]) == []


@settings(max_examples=30)
@given(st.text("acdghmnost ", max_size=60), st.text("acdghmnost ", max_size=60), st.integers(2, 40))
def test_what_does_not_fit_is_lost_from_the_left(prompt: str, text: str, window: int) -> None:
    [whole] = readings(TOKENIZER, 10_000, [(prompt, text)])
    [cut] = readings(TOKENIZER, window, [(prompt, text)])
    assert whole.lost == 0
    assert (
        whole.ids
        == (end := (TOKENIZER.end_of_document_id,))
        + (
            *TOKENIZER.encode(prompt),
            *TOKENIZER.encode(text),
        )
        + end
    )
    kept = min(window, len(whole.ids)) - 2
    assert cut.lost == len(whole.ids) - 2 - kept
    assert cut.ids == end + whole.ids[1:-1][cut.lost :] + end


def test_padding_is_no_document() -> None:
    rows = side_by_side(readings(TOKENIZER, 32, [("a", "b"), ("the cat", "sat on the mat")]), 7, torch.device("cpu"))
    assert rows.padded
    assert rows.documents_BT[0].tolist() == [0] * 4 + [-1] * (rows.tokens_BT.shape[1] - 4)
    assert set(rows.tokens_BT[0, 4:].tolist()) == {7}
    assert rows.last_B.tolist() == [3, rows.tokens_BT.shape[1] - 1]
    assert not side_by_side(readings(TOKENIZER, 32, [("a", "b")]), 7, torch.device("cpu")).padded
