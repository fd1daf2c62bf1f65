"""Every measure of thoughts by hand, what it says where there is nothing to say, and its bounds on anything."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dreamlm.core.evaluation import thought_metrics as metrics
from dreamlm.core.evaluation.trajectory import BatchDiversity, norms

ROOT2 = math.sqrt(2)
SQUARE = np.array([[3.0, 4.0], [0.0, 5.0], [0.0, 1.0]])
"""Norms 5, 5, 1; changes (-3, 1) and (0, -4)."""
TO_AND_FRO = np.array([[1.0, 0.0], [0.0, 1.0]] * 3)
ALONG = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])


def test_norms_and_their_deviation() -> None:
    assert norms(SQUARE).tolist() == [5.0, 5.0, 1.0]
    assert metrics.norm_deviation(SQUARE) == pytest.approx([math.sqrt(32) / 3]), "mean 11/3; squares 16/9, 16/9, 64/9"


def test_stability_is_one_of_equal_norms_and_falls_with_their_spread() -> None:
    assert metrics.stability(SQUARE) == pytest.approx([1 / (1 + (math.sqrt(32) / 3) / (11 / 3))])
    assert metrics.stability(TO_AND_FRO).tolist() == [1.0]


def test_changes_and_their_rate() -> None:
    assert metrics.changes(SQUARE) == pytest.approx([math.sqrt(10), 4.0])
    assert metrics.evolution_rate(SQUARE) == pytest.approx([(math.sqrt(10) + 4) / 2 / (11 / 3)])
    assert metrics.evolution_rate(TO_AND_FRO) == pytest.approx([ROOT2]), "orthogonal, of equal length"
    assert metrics.evolution_rate(np.array([[1.0], [-1.0]])) == pytest.approx([2.0])


def test_temporal_cosine_is_of_neighbours() -> None:
    assert metrics.temporal_cosine(SQUARE) == pytest.approx([20 / 25, 1.0])
    assert metrics.temporal_cosine(TO_AND_FRO) == pytest.approx([0.0] * 5)


def test_effective_dimensionality_counts_the_directions_of_equal_variance() -> None:
    cross = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert metrics.EffectiveDimensionality([cross])(np.arange(1)) == pytest.approx(2.0)
    assert metrics.EffectiveDimensionality([ALONG])(np.arange(1)) == pytest.approx(1.0)
    # Variances 4 and 1: shares 0.8 and 0.2.
    uneven = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    assert metrics.EffectiveDimensionality([uneven + 7])(np.arange(1)) == pytest.approx(1 / (0.8**2 + 0.2**2))


def test_saturation_and_sparsity_are_shares_of_numbers() -> None:
    thoughts = np.array([[0.99, -0.96, 0.01, 0.5], [0.0, 0.04, -0.04, 1.0]])
    assert metrics.saturation(thoughts, above=0.95).tolist() == [0.5, 0.25]
    assert metrics.sparsity(thoughts, below=0.05).tolist() == [0.25, 0.75]


def test_batch_diversity_compares_equally_old_thoughts_of_different_documents() -> None:
    one, other, third = np.array([[1.0, 0], [1, 0]]), np.array([[0.0, 2], [3, 0]]), np.array([[-1.0, 0]])
    owners = np.array([0, 1, 2])
    # First thoughts: cosines 0, -1, 0; second thoughts: 1.
    assert BatchDiversity([one, other, third], owners)(np.arange(3)) == pytest.approx(1 - (0 - 1 + 0 + 1) / 4)
    assert BatchDiversity([one, other, third], owners)(np.array([0, 1])) == pytest.approx(0.5)
    # Texts of one document are no pair: what is left is 0 and third's -1 against the first, and 0.
    same = BatchDiversity([one, other, third], np.array([0, 0, 2]))
    assert same(np.arange(3)) == pytest.approx(1 - (-1 + 0) / 2)
    assert math.isnan(same(np.array([0, 1])))


def test_entropy_is_the_evenness_of_sizes_within_a_thought() -> None:
    thoughts = np.array([[0.5, -0.5, 0.5, 0.5], [0, 0, -0.7, 0], [0.2, 0.2, 0, 0], [0.6, 0.2, 0, 0]])
    uneven = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert metrics.entropy(thoughts) == pytest.approx([1.0, 0.0, 0.5, uneven])


def test_entropy_and_effective_dimensionality_are_different_questions() -> None:
    same = np.full((5, 4), 0.3)
    assert metrics.entropy(same) == pytest.approx([1.0] * 5)
    assert math.isnan(metrics.EffectiveDimensionality([same])(np.arange(1)))
    spikes = np.eye(4)
    assert metrics.entropy(spikes) == pytest.approx([0.0] * 4)
    assert metrics.EffectiveDimensionality([spikes])(np.arange(1)) == pytest.approx(3.0)


def test_convergence_compares_the_halves_of_a_text() -> None:
    slower = np.array([[0.0], [4.0], [8.0], [9.0], [10.0]])  # changes 4 4 | 1 1
    assert metrics.convergence(slower) == pytest.approx([(4 - 1) / (4 + 1)])
    assert metrics.convergence(slower[::-1]) == pytest.approx([-(4 - 1) / (4 + 1)])
    odd = np.array([[0.0], [3.0], [103.0], [104.0]])  # changes 3 | 100 | 1
    assert metrics.convergence(odd) == pytest.approx([0.5])
    assert metrics.convergence(np.array([[0.0], [1.0], [1.0]])).tolist() == [1.0]


def test_oscillation_tells_going_back_from_going_on() -> None:
    assert metrics.oscillation(TO_AND_FRO) == pytest.approx([1.0] * 4)
    assert metrics.oscillation(ALONG) == pytest.approx([-1.0, -1.0])
    assert metrics.oscillation(SQUARE) == pytest.approx([4 / (math.sqrt(10) * 4)]), "changes (-3, 1) and (0, -4)"
    independent = np.random.default_rng(0).normal(size=(2000, 50))
    assert metrics.oscillation(independent).mean() == pytest.approx(0.5, abs=0.01)


OF_A_TEXT = {
    "norms": (norms, 0, math.inf),
    "norm deviation": (metrics.norm_deviation, 0, math.inf),
    "stability": (metrics.stability, 0, 1),
    "evolution rate": (metrics.evolution_rate, 0, math.inf),
    "temporal cosine": (metrics.temporal_cosine, -1, 1),
    "saturation": (lambda text: metrics.saturation(text, 0.95), 0, 1),
    "sparsity": (lambda text: metrics.sparsity(text, 0.05), 0, 1),
    "entropy": (metrics.entropy, 0, 1),
    "convergence": (metrics.convergence, -1, 1),
    "oscillation": (metrics.oscillation, -1, 1),
}
SHAPES = st.tuples(st.integers(0, 6), st.integers(1, 4))
NUMBERS = st.one_of(st.just(0.0), st.floats(-1, 1, width=32).filter(lambda one: one == 0 or abs(one) > 1e-6))
TEXTS = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=NUMBERS))


@pytest.mark.parametrize("name", OF_A_TEXT)
@given(text=TEXTS)
def test_every_value_is_finite_and_within_its_bounds(name: str, text: np.ndarray) -> None:
    measure, least, most = OF_A_TEXT[name]
    values = measure(text)
    assert values.ndim == 1
    assert np.isfinite(values).all()
    assert (values >= least - 1e-9).all()
    assert (values <= most + 1e-9).all()


@pytest.mark.parametrize(
    ("thoughts", "there"),
    [
        (0, set()),
        (1, {"norms", "saturation", "sparsity", "entropy"}),
        (2, set(OF_A_TEXT) - {"convergence", "oscillation"}),
        (3, set(OF_A_TEXT)),
    ],
)
def test_what_short_texts_have_no_value_of(thoughts: int, there: set[str]) -> None:
    text = np.random.default_rng(1).normal(size=(thoughts, 5))
    assert {name for name, (measure, _, _) in OF_A_TEXT.items() if len(measure(text))} == there


def test_zeros_have_neither_direction_nor_rate() -> None:
    zeros = np.zeros((4, 3))
    there = {name for name, (measure, _, _) in OF_A_TEXT.items() if len(measure(zeros))}
    assert there == {"norms", "norm deviation", "saturation", "sparsity"}
    assert math.isnan(BatchDiversity([zeros, zeros], np.arange(2))(np.arange(2)))


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 5), min_size=2, max_size=6), data=st.data())
def test_measures_of_a_set_are_their_formulas_on_the_chosen_texts(
    seed: int, counts: list[int], data: st.DataObject
) -> None:
    generator = np.random.default_rng(seed)
    texts = [generator.normal(size=(count, 3)) + 2 for count in counts]
    owners = generator.integers(0, 3, len(texts))
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1))))
    together = np.concatenate([texts[index] for index in chosen])
    found = metrics.EffectiveDimensionality(texts)(chosen)
    if len(together) < 2:
        assert math.isnan(found)
    else:
        share = np.linalg.eigvalsh(np.cov(together.T))
        assert found == pytest.approx(1 / ((share / share.sum()) ** 2).sum(), rel=1e-6)
    cosines = [
        first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        for one, other in itertools.combinations(chosen, 2)
        if owners[one] != owners[other]
        for first, second in zip(texts[one], texts[other], strict=False)
    ]
    between = BatchDiversity(texts, owners)(chosen)
    assert between == pytest.approx(1 - np.mean(cosines)) if cosines else math.isnan(between)
