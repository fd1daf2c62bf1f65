"""The choice head against softmaxes that autograd differentiates."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlm.core.heads import choice
from dreamlm.core.heads.choice import ChoiceHead, Support
from dreamlm.core.heads.lm import LanguageModelHead

TOKENS, WIDTH, VOCAB, END = 13, 6, 21, 4
NEVER = (7, 20)
TEMPERATURE = 1.3


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden vectors, weights, chosen tokens, and what each could have been beside `NEVER`."""
    random = torch.Generator().manual_seed(0)
    hidden_ND = (2 * torch.randn(TOKENS, WIDTH, generator=random)).requires_grad_()
    weight_VD = torch.randn(VOCAB, WIDTH, generator=random).requires_grad_()
    allowed_NV = torch.rand(TOKENS, VOCAB, generator=random) < 0.5
    chosen_N = torch.randint(8, 20, (TOKENS,), generator=random)
    allowed_NV[torch.arange(TOKENS), chosen_N] = True
    allowed_NV[0] = torch.arange(VOCAB) == chosen_N[0]  # nothing else was possible
    return hidden_ND, weight_VD, chosen_N, allowed_NV


def supports(kind: str, allowed_NV: Tensor) -> tuple[Support, Tensor]:
    """As the head takes it, and as a table."""
    table_NV = torch.ones(TOKENS, VOCAB, dtype=torch.bool)
    table_NV[:, NEVER] = False
    if kind == "all":
        return Support(), table_NV
    if kind == "endless":
        endless_N = torch.arange(TOKENS) % 3 > 0
        table_NV[endless_N, END] = False
        return Support(endless_N=endless_N), table_NV
    table_NV &= allowed_NV
    return Support(packed_NW=torch.from_numpy(np.packbits(table_NV.numpy(), axis=1))), table_NV


def by_autograd(hidden_ND: Tensor, weight_VD: Tensor, cap: float, table_NV: Tensor, chosen_N: Tensor) -> list[Tensor]:
    logits_NV = hidden_ND @ weight_VD.T
    if cap != math.inf:
        logits_NV = cap * torch.tanh(logits_NV / cap)
    logits_NV = logits_NV / TEMPERATURE
    allowed_N = [row_V.nonzero()[:, 0] for row_V in table_NV]
    ever_V = torch.tensor([token for token in range(VOCAB) if token not in NEVER])
    on_support, whole, entropies = [], [], []
    for logits_V, allowed, chosen in zip(logits_NV, allowed_N, chosen_N.tolist(), strict=True):
        on_support.append(logits_V[chosen] - logits_V[allowed].logsumexp(0))
        whole.append(logits_V[chosen] - logits_V[ever_V].logsumexp(0))
        entropies.append(torch.distributions.Categorical(logits=logits_V[allowed]).entropy())
    return [torch.stack(one) for one in (on_support, whole, entropies)]


@pytest.mark.parametrize("chunk", [1 << 22, 4 * VOCAB])
@pytest.mark.parametrize("kept", [1 << 24, 0])
@pytest.mark.parametrize("cap", [math.inf, 3.0])
@pytest.mark.parametrize("kind", ["all", "endless", "packed"])
def test_values_and_gradients_are_those_of_autograd(
    kind: str, cap: float, kept: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(choice, "KEPT_LOGITS", kept)
    hidden_ND, weight_VD, chosen_N, allowed_NV = inputs()
    support, table_NV = supports(kind, allowed_NV)
    head = ChoiceHead(LanguageModelHead(weight_VD, cap), TEMPERATURE, NEVER, END)
    found = head(hidden_ND, chosen_N, support)
    wanted = by_autograd(hidden_ND, weight_VD, cap, table_NV, chosen_N)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    upstream = torch.randn(3, TOKENS, generator=torch.Generator().manual_seed(1))
    for rows in ([0], [1], [2], [0, 1, 2]):
        gradients = [
            torch.autograd.grad(
                sum((upstream[row] * values[row]).sum() for row in rows), [hidden_ND, weight_VD], retain_graph=True
            )
            for values in (found, wanted)
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=5e-6, rtol=1e-4)


def test_entropies_that_nobody_wants_change_nothing_else() -> None:
    hidden_ND, weight_VD, chosen_N, allowed_NV = inputs()
    support, _ = supports("packed", allowed_NV)
    head = ChoiceHead(LanguageModelHead(weight_VD), TEMPERATURE, NEVER, END)
    with torch.no_grad():
        with_them, without = (head(hidden_ND, chosen_N, support, entropies=wanted) for wanted in (True, False))
    assert without[2] is None
    assert torch.equal(with_them[0], without[0])
    assert torch.equal(with_them[1], without[1])


def test_with_and_without_gradients_the_values_are_equal_bit_by_bit() -> None:
    """On this rests that the first ratio of an update is 1."""
    hidden_ND, weight_VD, chosen_N, allowed_NV = inputs()
    head = ChoiceHead(LanguageModelHead(weight_VD), TEMPERATURE, NEVER, END)
    for kind in ("all", "endless", "packed"):
        support, _ = supports(kind, allowed_NV)
        with torch.no_grad():
            without = head(hidden_ND, chosen_N, support)
        for one, other in zip(head(hidden_ND, chosen_N, support), without, strict=True):
            assert torch.equal(one, other)


def test_a_temperature_that_fp32_takes_for_0_gives_numbers_too() -> None:
    hidden_ND, weight_VD, *_ = inputs()
    likeliest_N = (hidden_ND @ weight_VD.T).index_fill(1, torch.tensor(NEVER), -torch.inf).argmax(dim=1)
    for temperature in (5e-324, 1e-46, 1e-40):
        head = ChoiceHead(LanguageModelHead(weight_VD), temperature, NEVER, END)
        for found_N in head(hidden_ND, likeliest_N, Support()):
            assert torch.equal(found_N, torch.zeros_like(found_N))
