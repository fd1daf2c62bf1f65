"""The section on dreams: every figure from dreams and losses by hand, and what it says where there are none."""

import json

import numpy as np
import pytest

from dreamlm.core.evaluation.ablation import TextLosses
from dreamlm.core.evaluation.bootstrap import Resampling
from dreamlm.core.evaluation.dream_reading import HeldOutDreams, TextDreams
from dreamlm.core.evaluation.dreams import Dreams
from dreamlm.core.evaluation.section import Section

RESAMPLING = Resampling(confidence=0.95, resamples=500, seed=0)
FIRST = ([1.0, 0.0], [0.0, 2.0])
"""Two dreams of a segment, at right angles."""
SECOND = ([1.0, 0.0], [3.0, 0.0])
ROLES = ([1.0, 0.0], [2.0, 0.0], [0.0, 1.0])


def text(dreams: list[tuple[list[float], ...]], gate: list[list[list[float]]], edges: list[list[float]]) -> TextDreams:
    count = len(dreams)
    arrays = (
        np.zeros((count, 1, 1)), np.zeros((count, 1, 1)), np.tile(ROLES, (count, 1, 1)),
        np.reshape(dreams, (count, 2, 2)), np.reshape(gate, (count, 2, 3)), np.reshape(edges, (count, 2)),
    )  # fmt: skip
    return TextDreams(*(array.astype(np.float32) for array in arrays))


ONE = text([FIRST, SECOND], [[[0.9, 0.1, 0], [0, 0.6, 0.4]], [[0.3, 0.7, 0], [0, 0.6, 0.4]]], [[1.5, 0.5], [1.0, 1.0]])
OTHER = text([SECOND], [[[0.9, 0.0, 0.1], [0, 0.6, 0.4]]], [[2.0, 0.0]])
NONE = text([], [], [])


def losses(nats: list[float], tokens: list[int], more: float = 0.0) -> TextLosses:
    """Twice as many nats over twice as many tokens are overall, of which `more` nats a token are the dreams'."""
    nats_N, count_N = np.array(nats), np.array(tokens)
    return TextLosses(nats_N + more * count_N, 2 * nats_N + more * count_N, count_N, 2 * count_N)


def section(texts: list[TextDreams], owners: list[int]) -> Section:
    nats, tokens = [3.0 + number for number in range(len(texts))], [2] * len(texts)
    by_kind = {"own": losses(nats, tokens), "zeroed": losses(nats, tokens, more=0.25)}
    return Dreams.Config().build(RESAMPLING).measure(HeldOutDreams(texts, np.array(owners)), by_kind)


def entropy(*shares: float) -> float:
    return float(-sum(share * np.log2(share) for share in shares))


def test_every_figure_by_hand() -> None:
    found = section([ONE, OTHER], [0, 1])
    # First experts: dream 1 has 0, 1, 0; dream 2 has 1, 1, 1. Sets: dream 1 has 01, 01, 02; dream 2 has 12 each time.
    first, sets = entropy(2 / 3, 1 / 3) / 2, entropy(2 / 3, 1 / 3) / 2
    expected = {
        "load, dream 1, expert 1": 3 / 6,
        "load, dream 1, expert 2": 2 / 6,
        "load, dream 1, expert 3": 1 / 6,
        "load, dream 2, expert 1": 0.0,
        "load, dream 2, expert 2": 3 / 6,
        "load, dream 2, expert 3": 3 / 6,
        "mutual information, first expert; dream": entropy(2 / 6, 4 / 6) - first,
        "conditional entropy, first expert | dream": first,
        "mutual information, expert set; dream": 1.0,
        "conditional entropy, expert set | dream": sets,
        "distance, other documents": (0 + 1) / 2,
        "distance, same segment": (1 + 0 + 0) / 3,
        "cosine, what and action": 1.0,
        "cosine, what and result": 0.0,
        "cosine, action and result": 0.0,
        "edges, temporal": 4.5 / 6,
        "edges, spatial": 1.5 / 6,
        "loss, own dreams": 7 / 4,
        "loss, zeroed dreams": 8 / 4,
        "zeroed - own": 0.25,
        "loss, own dreams, all tokens": 14 / 8,
        "loss, zeroed dreams, all tokens": 15 / 8,
        "zeroed - own, all tokens": 0.125,
    }
    assert {figure.name: figure.value for figure in found.figures} == {
        name: pytest.approx(value, abs=1e-6) for name, value in expected.items()
    }
    assert found.summary == "3 segments of 2 dreams each, in 2 texts of 2 documents"
    assert found.figure("load, dream 1, expert 1").unit == "share of the dream's choices, 2 a segment"
    told, left = (
        found.figure(f"{name} dream").unit
        for name in ("mutual information, expert set;", "conditional entropy, expert set |")
    )
    assert told.startswith("bits the number tells, of 1.00; by chance 0.")
    assert left == "bits the text tells, of 1.58"
    assert found.figure("zeroed - own").unit == "nats per token that reads dreams"


def test_differences_are_of_documents_to_themselves() -> None:
    found = section([ONE] * 12, list(range(12)))
    loss, more = found.figure("loss, own dreams").interval, found.figure("zeroed - own").interval
    assert loss is not None
    assert more is not None
    assert loss.high - loss.low > 1.0
    assert (more.low, more.high) == pytest.approx((0.25, 0.25))


def test_intervals_are_over_documents() -> None:
    mixed = [ONE, OTHER] * 6
    among = section(mixed, list(range(12))).figure("conditional entropy, first expert | dream").interval
    assert among is not None
    assert among.low < among.high
    assert all(figure.interval is None for figure in section(mixed, [0] * 6 + [1] * 6).figures)
    alone = section(mixed, [0] * 12)
    assert alone.figure("loss, own dreams").interval is not None, "of a single document, its texts"
    assert alone.figure("distance, other documents").value is None


@pytest.mark.parametrize("texts", [[NONE], [NONE] * 7, [ONE], [NONE, ONE]])
def test_what_cannot_be_measured_is_absent_and_nothing_is_infinite(texts: list[TextDreams]) -> None:
    found = section(texts, list(range(len(texts))))
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["figures"]["distance_other_documents"]["value"] is None
    assert (written["figures"]["edges_spatial"]["value"] is None) == (found.details["segments"] == 0)
    assert (written["figures"]["mutual_information_expert_set_dream"]["value"] is None) == (ONE not in texts)
    assert written["figures"]["loss_own_dreams"]["value"] > 0
