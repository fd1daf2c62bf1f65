"""A diffusion model's figures are told as what they are: estimates of an upper bound, unless its blocks are tokens."""

import pytest
import torch
from small_model import SEQ_LENGTH, VOCAB_SIZE, hand_made

from dreamlm.core.errors import RangeError
from dreamlm.core.evaluation.html_page import html_page
from dreamlm.core.evaluation.likelihood import DiffusionBound, likelihood_of
from dreamlm.core.evaluation.perplexity import Evaluation
from dreamlm.core.evaluation.plots import draw_report
from dreamlm.core.evaluation.report import PerplexityReport
from dreamlm.core.evaluation.section import EvaluationReport
from dreamlm.core.nn.decoder import DreamLM

FILLER = 1
CAUSAL, BY_TOKEN, BY_BLOCK = None, {"block_size": 1}, {"block_size": 4}


def model(diffusion: dict[str, int] | None) -> DreamLM:
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": SEQ_LENGTH}
    return DreamLM.Config.model_validate({**sizes, "diffusion": diffusion}).build(VOCAB_SIZE)


def measured(diffusion: dict[str, int] | None) -> PerplexityReport:
    subject = model(diffusion)
    return Evaluation.Config().build().run(subject, hand_made(), likelihood=likelihood_of(subject, FILLER))


def test_only_a_model_that_fills_blocks_is_measured_by_a_bound() -> None:
    causal, by_token, by_block = (measured(one) for one in (CAUSAL, BY_TOKEN, BY_BLOCK))
    assert [one.is_bound for one in (causal, by_token, by_block)] == [False, False, True]
    assert causal.monte_carlo_error == by_token.monte_carlo_error == 0.0
    assert by_token.cross_entropy == pytest.approx(causal.cross_entropy, rel=1e-6)
    assert by_block.monte_carlo_error > 0.0
    assert {key: by_block.to_json()[key] for key in ("is_bound", "monte_carlo_error")} == {
        "is_bound": True,
        "monte_carlo_error": by_block.monte_carlo_error,
    }


@pytest.mark.parametrize(("diffusion", "told"), [(CAUSAL, False), (BY_TOKEN, False), (BY_BLOCK, True)])
def test_page_and_plots_say_so(diffusion: dict[str, int] | None, told: bool) -> None:
    report = measured(diffusion)
    error = f"{report.monte_carlo_error:.4f} nats per token"
    sentence = "An upper bound, as a diffusion model has no other; its standard error of estimation is at most about"
    assert (f"{sentence} {error}." in html_page(EvaluationReport(report), b"", {})) is told
    assert (f"an upper bound, +-{error}" in draw_report(report).get_suptitle()) is told


def test_a_bound_whose_error_cannot_be_told_is_not_computed() -> None:
    with pytest.raises(RangeError, match="1 sample does not tell how far the bound's estimate is off"):
        Evaluation.Config().build().run(model(BY_BLOCK), hand_made(), likelihood=DiffusionBound(FILLER, samples=1))
    with pytest.raises(ValueError, match="bound_samples"):
        Evaluation.Config(bound_samples=1)
    assert Evaluation.Config(bound_samples=2).bound_samples == 2
