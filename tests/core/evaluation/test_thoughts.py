"""The section on thoughts: every figure from thoughts and losses by hand, and what it says where there are none."""

import json

import numpy as np
import pytest

from dreamlm.core.evaluation.ablation import TextLosses
from dreamlm.core.evaluation.bootstrap import Resampling
from dreamlm.core.evaluation.section import Section
from dreamlm.core.evaluation.thought_reading import HeldOutThoughts
from dreamlm.core.evaluation.thoughts import Thoughts

RESAMPLING = Resampling(confidence=0.95, resamples=500, seed=0)
TO_AND_FRO = np.array([[0.6, 0.0], [0.0, 0.6], [0.6, 0.0]])
STILL = np.array([[0.99, 0.99], [0.99, 0.99]])
OF_THOUGHTS = [
    *("norm mean", "norm std", "stability", "evolution rate", "temporal cosine", "effective dimensionality"),
    *("saturation", "sparsity", "batch diversity", "entropy", "convergence", "oscillation"),
]


def losses(nats: list[float], tokens: list[int], more: float = 0.0) -> TextLosses:
    """Twice as many nats over twice as many tokens are overall, of which `more` nats a token are the stack's."""
    nats_N, count_N = np.array(nats), np.array(tokens)
    return TextLosses(nats_N + more * count_N, 2 * nats_N + more * count_N, count_N, 2 * count_N)


def section(texts: list[np.ndarray], owners: list[int], **settings: float) -> Section:
    found = HeldOutThoughts(texts, np.array(owners), 2)
    nats, tokens = [3.0 + number for number in range(len(texts))], [2] * len(texts)
    by_stack = {"true": losses(nats, tokens), "zeroed": losses(nats, tokens, more=0.25)}
    return Thoughts.Config(**settings).build(RESAMPLING).measure(found, by_stack)


def test_every_figure_by_hand() -> None:
    found = section([TO_AND_FRO, STILL], [0, 1])
    norm = 0.99 * np.sqrt(2)
    together = np.concatenate([TO_AND_FRO, STILL])
    share = np.linalg.eigvalsh(np.cov(together.T))
    cosine = np.sqrt(0.5)
    expected = {
        "norm mean": (3 * 0.6 + 2 * norm) / 5,
        "norm std": 0.0,
        "stability": 1.0,
        "evolution rate": (np.sqrt(2) + 0) / 2,
        "temporal cosine": (0 + 0 + 1) / 3,
        "effective dimensionality": 1 / ((share / share.sum()) ** 2).sum(),
        "saturation": (0 + 0 + 0 + 1 + 1) / 5,
        "sparsity": (0.5 * 3 + 0) / 5,
        "batch diversity": 1 - cosine,
        "entropy": (0 + 0 + 0 + 1 + 1) / 5,
        "convergence": 0.0,
        "oscillation": 1.0,
        "loss, true stack": 7 / 4,
        "loss, zeroed stack": 8 / 4,
        "zeroed - true": 0.25,
        "loss, true stack, all tokens": 14 / 8,
        "loss, zeroed stack, all tokens": 15 / 8,
        "zeroed - true, all tokens": 0.125,
    }
    assert {figure.name: figure.value for figure in found.figures} == {
        name: pytest.approx(value, abs=1e-9) for name, value in expected.items()
    }
    assert found.summary == "5 thoughts in 2 texts of 2 documents"
    assert found.figure("norm mean").unit == "length of a thought, at most 1.414"


def test_thresholds_are_settings() -> None:
    found = section([TO_AND_FRO, STILL], [0, 1], saturated_above=0.5, sparse_below=0.7)
    assert found.figure("saturation").value == pytest.approx((0.5 * 3 + 2) / 5)
    assert found.figure("sparsity").value == pytest.approx(3 / 5)
    assert found.figure("saturation").unit == "share of numbers above 0.5 in size"


def test_differences_are_of_documents_to_themselves() -> None:
    generator = np.random.default_rng(0)
    found = section([generator.normal(size=(4, 2)) / 3 for _ in range(12)], list(range(12)))
    loss, more = found.figure("loss, true stack").interval, found.figure("zeroed - true").interval
    assert loss is not None
    assert more is not None
    assert loss.high - loss.low > 1.0
    assert (more.low, more.high) == pytest.approx((0.25, 0.25))


def test_texts_of_a_document_are_resampled_together() -> None:
    generator = np.random.default_rng(0)
    texts = [generator.normal(size=(4, 2)) / 3 for _ in range(12)]
    assert all(figure.interval is None for figure in section(texts, [0] * 6 + [1] * 6).figures)
    alone = section(texts, [0] * 12)
    assert alone.figure("loss, true stack").interval is not None, "of a single document, its texts"
    assert alone.figure("batch diversity").value is None


@pytest.mark.parametrize(
    "texts", [[np.zeros((0, 2))], [np.zeros((0, 2))] * 7, [np.ones((1, 2))], [np.zeros((3, 2))] * 6]
)
def test_what_cannot_be_measured_is_absent_and_nothing_is_infinite(texts: list[np.ndarray]) -> None:
    found = section(texts, list(range(len(texts))))
    assert [figure.name for figure in found.figures][:12] == OF_THOUGHTS
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["figures"]["oscillation"]["value"] is None
    assert written["figures"]["loss_true_stack"]["value"] > 0


def test_tokens_that_read_nothing_leave_their_figures_out() -> None:
    nobody = TextLosses(np.zeros(2), np.ones(2), np.zeros(2, np.int64), np.ones(2, np.int64))
    found = HeldOutThoughts([np.zeros((0, 2))] * 2, np.arange(2), 2)
    figures = Thoughts.Config().build(RESAMPLING).measure(found, {"true": nobody, "zeroed": nobody})
    assert figures.figure("zeroed - true").value is None
    assert figures.figure("zeroed - true, all tokens").value == 0.0
