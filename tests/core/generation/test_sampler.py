import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamlm.core.generation import sampler as sampler_module
from dreamlm.core.generation.sampler import Sampler, draw, nucleus

LOGITS = torch.tensor([[2.0, 0.5, 1.5, -1.0, 0.0, 1.0, -3.0, 1.5001]])


def by_the_definition(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Top-k, then the fewest tokens whose probabilities reach top_p, renormalised; one row, plain loops."""
    scaled = logits.astype(np.float64) / temperature
    order = [int(token) for token in np.argsort(-scaled, kind="stable")][: top_k or None]
    weights = {token: float(np.exp(scaled[token] - scaled.max())) for token in order}
    total, reached, kept = sum(weights.values()), 0.0, []
    for token in order:
        if reached >= top_p:
            break
        kept.append(token)
        reached += weights[token] / total
    probabilities = np.zeros(len(logits))
    for token in kept:
        probabilities[token] = weights[token] / sum(weights[token] for token in kept)
    return probabilities


@given(
    logits=st.lists(st.integers(-40, 40), min_size=2, max_size=12, unique=True),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.05, 0.31, 0.73, 0.999, 1.0]),
)
def test_probabilities_are_those_of_the_definition(
    logits: list[int], temperature: float, top_k: int, top_p: float
) -> None:
    sampler = Sampler.Config(temperature=temperature, top_k=top_k, top_p=top_p).build()
    found = sampler.probabilities(torch.tensor([logits]) / 10)
    expected = by_the_definition(np.array(logits) / 10, temperature, top_k, top_p)
    np.testing.assert_allclose((found / found.sum())[0].numpy(), expected, atol=2e-6)


def test_the_token_that_crosses_top_p_stays_in() -> None:
    kept = nucleus(torch.tensor([[0.2, 0.5, 0.3]]), 0.6)
    torch.testing.assert_close(kept, torch.tensor([[0.0, 0.5, 0.3]]))


def test_a_top_p_that_is_reached_exactly_takes_no_further_token() -> None:
    assert nucleus(torch.tensor([[0.25, 0.5, 0.25]]), 0.5).tolist() == [[0.0, 0.5, 0.0]]


def test_equally_probable_tokens_stay_or_go_together() -> None:
    probabilities = torch.tensor([[0.2, 0.4, 0.1, 0.2, 0.1]])
    assert (nucleus(probabilities, 0.5) > 0).tolist() == [[True, True, False, True, False]]


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.999, 0.9999999])
def test_a_nucleus_does_not_depend_on_the_shortlist(monkeypatch: pytest.MonkeyPatch, top_p: float) -> None:
    logits = torch.randn(6, 200, generator=torch.Generator().manual_seed(2)) * torch.arange(6)[:, None]
    probabilities = logits.softmax(dim=-1)
    whole = nucleus(probabilities, top_p)
    monkeypatch.setattr(sampler_module, "SHORTLIST", 7)
    assert torch.equal(nucleus(probabilities, top_p), whole)


def test_a_tiny_top_p_keeps_the_most_probable_token() -> None:
    assert nucleus(torch.tensor([[0.25, 0.5, 0.25]]), 1e-9).tolist() == [[0.0, 0.5, 0.0]]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.7, "top_p": 1.0, "top_k": 4},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 2.0, "top_p": 0.9, "top_k": 6},
    ],
)
def test_draws_follow_the_exact_probabilities(settings: dict[str, float]) -> None:
    config = Sampler.Config.model_validate(settings)
    draws = 40_000
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    chosen = config.build().choose(LOGITS.expand(draws, -1), uniform)
    expected = draws * by_the_definition(LOGITS[0].numpy(), config.temperature, config.top_k, config.top_p)
    counts = np.bincount(chosen.numpy(), minlength=len(expected))
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    # 99.9 % quantiles of chi-square with 1 to 7 degrees of freedom.
    quantile = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32][int(possible.sum()) - 2]
    assert chi_square < quantile


def test_no_uniform_number_draws_a_token_of_weight_zero() -> None:
    weights = torch.tensor([[0.0, 0.3, 0.0, 0.0, 0.7, 0.0]])
    edges = torch.tensor([0.0, 1e-300, 0.3, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert set(draw(weights.expand(len(edges), -1), edges).tolist()) == {1, 4}


TINY = [{"temperature": 1e-46}, {"temperature": 5e-324, "top_p": 1.0}]
"""fp32, in which logits are divided, takes these for 0."""


@pytest.mark.parametrize(
    "settings", [{"greedy": True}, {"temperature": 0.0}, {"top_k": 1}, {"temperature": 1e-30}, *TINY]
)
def test_every_way_to_ask_for_the_most_probable_token_gives_it(settings: dict[str, float]) -> None:
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(1)) * 30
    uniform = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    assert torch.equal(Sampler.Config.model_validate(settings).build().choose(logits, uniform), logits.argmax(dim=1))


def test_forbidden_tokens_are_never_chosen_at_any_temperature() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 2.0]]).expand(100, -1)
    uniform = torch.linspace(0, 0.9999, 100, dtype=torch.float64)
    for temperature in (5e-324, 1e-46, 1e-40, 1e-30, 0.5, 100.0):
        chosen = Sampler.Config(temperature=temperature, top_p=1.0, top_k=3).build().choose(logits, uniform)
        assert set(chosen.tolist()) <= {1, 3}


def test_rows_do_not_influence_one_another() -> None:
    sampler = Sampler.Config(top_p=0.7, top_k=9).build()
    generator = torch.Generator().manual_seed(3)
    logits, uniform = torch.randn(12, 30, generator=generator), torch.rand(12, generator=generator)
    alone = [int(sampler.choose(logits[row : row + 1], uniform[row : row + 1])) for row in range(12)]
    assert sampler.choose(logits, uniform).tolist() == alone


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"temperature": -0.1}, "greater than or equal to 0"),
        ({"top_p": 0.0}, "greater than 0"),
        ({"top_p": 1.1}, "less than or equal to 1"),
        ({"top_k": -1}, "greater than or equal to 0"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "9 is above max_new_tokens, 8"),
        ({"stop": ["x", ""]}, "must not be empty"),
        ({"ngram_scope": "prompt"}, "'all' or 'output'"),
        ({"topp": 0.9}, "Extra inputs are not permitted"),
    ],
)
def test_an_impossible_setting_is_refused_with_its_range(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Sampler.Config.model_validate(settings)
