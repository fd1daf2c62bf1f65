"""The chunked cross-entropy is the cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from dreamlm.core.heads import lm
from dreamlm.core.heads.lm import LanguageModelHead


@pytest.fixture(params=[1, 7, 10_000])
def rows_per_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(lm, "CHUNK_LOGITS", 31 * request.param)
    return request.param


def inputs(soft_cap: float = math.inf) -> tuple[LanguageModelHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = LanguageModelHead(torch.nn.Parameter(torch.randn(31, 8)), soft_cap)
    hidden = torch.randn(20, 8, requires_grad=True)
    target = torch.randint(0, 31, (20,))
    target[[3, 11]] = -1
    return head, hidden, target


def plain_logits(head: LanguageModelHead, hidden: torch.Tensor) -> torch.Tensor:
    logits = hidden @ head.weight.T
    return logits if head.soft_cap == math.inf else head.soft_cap * torch.tanh(logits / head.soft_cap)


@pytest.mark.parametrize("soft_cap", [math.inf, 30.0, 1.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.usefixtures("rows_per_chunk")
def test_loss_and_gradients_equal_the_plain_formula(smoothing: float, soft_cap: float) -> None:
    head, hidden, target = inputs(soft_cap)
    loss, nll = head(hidden, target, smoothing)
    (loss * 0.5).backward()
    ours = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    logits = plain_logits(head, hidden)
    expected = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    (expected * 0.5).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, [hidden.grad, head.weight.grad])
    torch.testing.assert_close(nll, F.cross_entropy(logits, target, ignore_index=-1, reduction="sum"))
    assert not nll.requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_logits_of_no_more_than_a_chunk_are_held(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = lm.capped

    def counted(logits: torch.Tensor, soft_cap: float) -> torch.Tensor:
        sizes.append(logits.numel())
        return plain(logits, soft_cap)

    monkeypatch.setattr(lm, "CHUNK_LOGITS", 31 * 4)
    monkeypatch.setattr(lm, "capped", counted)
    head, hidden, target = inputs()
    loss, _ = head(hidden, target, smoothing)
    head.token_nll(hidden, target)
    assert sizes == [31 * 4] * 10
    # For the backward pass there are gradients of the vectors and of the weight, ready made.
    assert sum(one.numel() for one in loss.grad_fn.saved_tensors) == hidden.numel() + head.weight.numel()


@pytest.mark.parametrize("soft_cap", [math.inf, 1.5])
@pytest.mark.usefixtures("rows_per_chunk")
def test_token_nll_is_zero_where_nothing_is_predicted(soft_cap: float) -> None:
    head, hidden, target = inputs(soft_cap)
    expected = F.cross_entropy(plain_logits(head, hidden), target, ignore_index=-1, reduction="none")
    torch.testing.assert_close(head.token_nll(hidden, target), expected.detach())


@pytest.mark.usefixtures("rows_per_chunk")
def test_each_target_counts_as_much_as_its_own_importance_says() -> None:
    head, hidden, target = inputs()
    importance = torch.rand(20)
    loss, nll = head(hidden, target, 0.0, importance)
    loss.backward()
    ours = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    each = F.cross_entropy(plain_logits(head, hidden), target, ignore_index=-1, reduction="none")
    (each * importance).sum().backward()
    torch.testing.assert_close([loss, nll], [(each * importance).sum()] * 2)
    torch.testing.assert_close(ours, [hidden.grad, head.weight.grad])


def test_what_many_chunks_ask_of_the_weight_is_added_up_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 a sum no longer grows by what is less than 1/512 of it."""
    monkeypatch.setattr(lm, "CHUNK_LOGITS", 31)
    head, hidden, target = inputs()
    many_hidden, many_target = hidden[:1].detach().expand(3000, -1), target[:1].expand(3000)
    grads = []
    for rows in (1, 3000):
        head.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = head(many_hidden[:rows], many_target[:rows], 0.0)
        loss.backward()
        grads.append(head.weight.grad.clone())
    torch.testing.assert_close(grads[1], grads[0] * 3000, rtol=1e-3, atol=0.0)


def test_logits_of_bf16_weights_are_capped_in_fp32() -> None:
    head, hidden, _ = inputs(soft_cap=1.5)
    rough = LanguageModelHead(torch.nn.Parameter(head.weight.detach().bfloat16()), 1.5)
    free = F.linear(hidden.detach().bfloat16(), rough.weight)
    assert torch.equal(rough.logits(hidden.detach().bfloat16()), 1.5 * torch.tanh(free.float() / 1.5))


def test_bf16_loss_stays_close_to_fp32() -> None:
    head, hidden, target = inputs()
    exact, _ = head(hidden, target, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = head(hidden, target, 0.0)
    rough.backward()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=0.0)
    assert torch.isfinite(head.weight.grad).all()


def test_capped_logits_keep_their_order_below_the_cap_and_their_gradient() -> None:
    head, hidden, _ = inputs(soft_cap=1.5)
    capped, free = head.logits(hidden), hidden @ head.weight.T
    torch.testing.assert_close(capped, plain_logits(head, hidden))
    assert capped.abs().max() < 1.5 < free.abs().max()
    assert torch.equal(capped.argsort(dim=1), free.argsort(dim=1))
    ours, expected = (torch.autograd.grad(one.sum(), hidden)[0] for one in (capped, plain_logits(head, hidden)))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_under_a_cap_is_the_slope_of_the_loss(smoothing: float) -> None:
    """Against differences of the loss itself, in fp64, so that no formula is trusted."""
    torch.manual_seed(0)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 6, -1, 3, 2])

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return LanguageModelHead(weight, 2.0)(hidden, target, smoothing)[0]

    # Logits are fp32 inside, which bounds how fine the differences can be.
    assert torch.autograd.gradcheck(loss, (hidden, weight), eps=1e-2, atol=2e-3, rtol=1e-2)
