"""The mix weighs what applies, says what each component found, and stops at figures that are none."""

import math
from collections.abc import Sequence
from statistics import mean

import pytest
import torch
from answers_by_hand import IDS, answer, sharp
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamlm.core.errors import UserMistake
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.rewards.coherence import coherence
from dreamlm.core.rl.rewards.correctness import correctness
from dreamlm.core.rl.rewards.creativity import creativity
from dreamlm.core.rl.rewards.faithfulness import faithfulness
from dreamlm.core.rl.rewards.mix import RewardNotFinite, Rewards

NONE = {"faithfulness": 0, "coherence": 0, "correctness": 0, "creativity": 0}
ANSWERS = [answer([7, 30], [45, 30, 200, 17, 0], "the cat", "cat"), answer([7, 30], [45, 45, 45, 45], "a dog", "cat")]
UNKNOWN = answer([7, 30], [45, 30, 200, 17, 0], "the cat")


def fixed(**values: Sequence[float | None]) -> dict[str, object]:
    return {name: lambda answers, found=found: found for name, found in values.items()}


def test_the_components_are_those_of_the_measures_under_their_public_names() -> None:
    scores = Rewards.Config(correctness=1, correctness_metric="words").build(sharp()).score(ANSWERS)
    assert scores.components == {
        "faithfulness": faithfulness(ANSWERS, sharp()),
        "coherence": coherence(ANSWERS, sharp()),
        "correctness": correctness(ANSWERS, "words"),
        "creativity": creativity(ANSWERS),
    }


def test_the_total_is_the_weighted_mean() -> None:
    config = Rewards.Config(faithfulness=1, coherence=2, correctness=3, creativity=4, learned=10)
    measures = fixed(faithfulness=[-0.5], coherence=[0.25], correctness=[1.0], creativity=[0.5], learned=[-1.0])
    scores = Rewards(config, measures).score(ANSWERS[:1])
    assert scores.total == pytest.approx(((-0.5 + 0.5 + 3 + 2 - 10) / 20,))


def test_only_the_proportions_of_weights_matter() -> None:
    small, large = (
        Rewards.Config(faithfulness=scale, coherence=2 * scale, correctness=3 * scale, creativity=scale)
        .build(sharp())
        .score(ANSWERS)
        .total
        for scale in (0.01, 100)
    )
    assert small == pytest.approx(large, rel=1e-12)


def test_without_a_reference_answer_the_others_take_its_weight_in_proportion() -> None:
    config = Rewards.Config(**NONE | {"coherence": 1, "correctness": 6, "creativity": 3})
    scores = Rewards(config, fixed(coherence=[0.2, 0.2], correctness=[1.0, None], creativity=[0.6, 0.6])).score(ANSWERS)
    assert scores.total == pytest.approx([(0.2 + 6 + 1.8) / 10, (0.2 + 1.8) / 4])
    assert scores.components["correctness"] == (1.0, None)


def test_an_answer_to_which_nothing_applies_is_refused() -> None:
    rewards = Rewards.Config(**NONE | {"correctness": 1}).build(sharp())
    assert rewards.score(ANSWERS).total == (1.0, 0.0)
    with pytest.raises(UserMistake, match="no component of the reward applies") as caught:
        rewards.score([*ANSWERS, UNKNOWN])
    assert "answer 'the cat' to prompt 'what?'" in caught.value.where


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_none_is_named_with_its_answer(broken: float) -> None:
    rewards = Rewards.Config(learned=1).build(sharp(), learned=lambda answers: [0.5, broken])
    with pytest.raises(RewardNotFinite, match=f"component learned is {broken}") as caught:
        rewards.score(ANSWERS)
    assert "answer 'a dog'" in caught.value.where


def test_a_learned_reward_is_mixed_like_any_other() -> None:
    rewards = Rewards.Config(**NONE | {"learned": 1}).build(
        sharp(), learned=lambda answers: [float(len(one.ids)) for one in answers]
    )
    scores = rewards.score(ANSWERS)
    assert (scores.total, scores.components["learned"]) == ((5, 4), (5, 4))


def test_a_learned_weight_needs_a_reward_model() -> None:
    with pytest.raises(UserMistake, match="there is no reward model"):
        Rewards.Config(learned=0.1).build(sharp())


def test_what_weighs_nothing_is_measured_unless_told_otherwise() -> None:
    every = {"faithfulness", "coherence", "correctness", "creativity"}
    assert set(Rewards.Config(**NONE | {"creativity": 1}).build(sharp()).score(ANSWERS).components) == every
    few = Rewards.Config(**NONE | {"creativity": 1}, measure_all=False).build(sharp(), learned=not_called)
    assert set(few.score(ANSWERS).components) == {"creativity"}


def not_called(answers: Sequence[Answer]) -> Sequence[float]:
    raise AssertionError("a component that is not wanted was measured")


def test_what_weighs_nothing_changes_no_total() -> None:
    weights = NONE | {"coherence": 1, "creativity": 2}
    with_all, without = (Rewards.Config(**weights, measure_all=all_).build(sharp()) for all_ in (True, False))
    assert with_all.score(ANSWERS).total == without.score(ANSWERS).total


def test_no_weight_at_all_is_a_mistake_and_so_is_a_negative_one() -> None:
    with pytest.raises(ValidationError, match="every weight is 0"):
        Rewards.Config(**NONE)
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValidationError, match="coherence"):
            Rewards.Config(coherence=wrong)


def test_the_training_text_reaches_creativity() -> None:
    rewards = Rewards.Config().build(sharp(), seen=lambda ids: [True] * (len(ids) - 3))
    assert rewards.score(ANSWERS).components["creativity"] == (0.0, 0.0)


def test_by_default_random_tokens_earn_less_than_what_the_reference_itself_writes() -> None:
    draw = torch.Generator().manual_seed(2)
    prompts = torch.randint(2, 258, (16, 4), generator=draw).tolist()
    written = [answer(prompt, sampled([0, *prompt], 16, draw)) for prompt in prompts]
    random = [answer(prompt, torch.randint(2, 258, (16,), generator=draw).tolist()) for prompt in prompts]
    default, equal = Rewards.Config(), Rewards.Config(coherence=1, creativity=1)
    assert mean(default.build(sharp()).score(written).total) > mean(default.build(sharp()).score(random).total)
    assert mean(equal.build(sharp()).score(written).total) < mean(equal.build(sharp()).score(random).total)


@torch.no_grad()
def sampled(read: list[int], count: int, draw: torch.Generator) -> list[int]:
    """Tokens drawn from the reference at temperature 1, each after all before it."""
    model = sharp().model.eval()
    for _ in range(count):
        ids = torch.tensor([read])
        hidden = model(ids, torch.zeros_like(ids), model.start(1), boundaries=False).hidden
        probabilities = model.logits(hidden)[0, -1].softmax(dim=0)
        read = [*read, int(torch.multinomial(probabilities, 1, generator=draw))]
    return read[-count:]


def test_no_answers_have_no_scores() -> None:
    assert Rewards.Config().build(sharp()).score([]).total == ()


WEIGHT = st.floats(0, 5)


@settings(max_examples=20)
@given(
    st.tuples(WEIGHT, WEIGHT, WEIGHT, st.floats(0.01, 5)),
    st.lists(st.tuples(IDS, IDS, st.sampled_from(["", "cat"])), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_a_total_lies_among_its_components_whatever_the_order(weights: tuple, made: list, draw: object) -> None:
    config = Rewards.Config(**dict(zip(NONE, weights, strict=True)))
    answers = [answer(prompt, said, "the cat", wanted) for prompt, said, wanted in made]
    scores = config.build(sharp()).score(answers)
    for number, total in enumerate(scores.total):
        applied = [values[number] for values in scores.components.values() if values[number] is not None]
        assert min(applied) - 1e-9 <= total <= max(applied) + 1e-9
    shuffled = draw.sample(range(len(answers)), len(answers))
    again = config.build(sharp()).score([answers[number] for number in shuffled])
    assert again.total == pytest.approx([scores.total[number] for number in shuffled], abs=1e-5)
