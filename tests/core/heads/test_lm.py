"""The chunked cross-entropy is the cross-entropy."""

import pytest
import torch
from torch.nn import functional as F

from dreamlm.core.heads import lm
from dreamlm.core.heads.lm import LanguageModelHead


@pytest.fixture(params=[1, 7, 10_000])
def rows_per_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(lm, "CHUNK_LOGITS", 31 * request.param)
    return request.param


def inputs() -> tuple[LanguageModelHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = LanguageModelHead(torch.nn.Parameter(torch.randn(31, 8)))
    hidden = torch.randn(20, 8, requires_grad=True)
    target = torch.randint(0, 31, (20,))
    target[[3, 11]] = -1
    return head, hidden, target


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.usefixtures("rows_per_chunk")
def test_loss_and_gradients_equal_the_plain_formula(smoothing: float) -> None:
    head, hidden, target = inputs()
    loss, nll = head(hidden, target, smoothing)
    (loss * 0.5).backward()
    ours = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    logits = hidden @ head.weight.T
    expected = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    (expected * 0.5).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, [hidden.grad, head.weight.grad])
    torch.testing.assert_close(nll, F.cross_entropy(logits, target, ignore_index=-1, reduction="sum"))
    assert not nll.requires_grad


@pytest.mark.usefixtures("rows_per_chunk")
def test_token_nll_is_zero_where_nothing_is_predicted() -> None:
    head, hidden, target = inputs()
    expected = F.cross_entropy(hidden @ head.weight.T, target, ignore_index=-1, reduction="none")
    torch.testing.assert_close(head.token_nll(hidden, target), expected.detach())


def test_bf16_loss_stays_close_to_fp32() -> None:
    head, hidden, target = inputs()
    exact, _ = head(hidden, target, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = head(hidden, target, 0.0)
    rough.backward()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=0.0)
    assert torch.isfinite(head.weight.grad).all()
