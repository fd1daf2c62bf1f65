import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from small_model import HandMade, hand_made, small_model

from dreamlm.core.errors import DataError, DreamLMError
from dreamlm.core.evaluation import perplexity
from dreamlm.core.evaluation.perplexity import Evaluation, evaluate
from dreamlm.core.evaluation.report import PerplexityReport
from dreamlm.core.evaluation.score import score
from dreamlm.core.nn.decoder import DreamLM


@torch.no_grad()
def losses_token_by_token(model: DreamLM, held_out: HandMade) -> list[tuple[int, int, float]]:
    """(source, place, nats) of every real target: each document of each window alone, in one pass, without padding."""
    losses = []
    for ids, documents, source in zip(held_out.windows, held_out.documents, held_out.sources, strict=True):
        for document in sorted(set(documents[:-1].tolist()) - {-1}):
            places = [place for place in range(len(ids) - 1) if documents[place] == document]
            tokens = torch.from_numpy(ids[places])[None]
            signal = model(tokens, torch.zeros_like(tokens), model.start(1), boundaries=False)
            scores = model.logits(signal.hidden)[0].double().log_softmax(dim=-1)
            for row, place in enumerate(places):
                if documents[place + 1] >= 0:
                    losses.append((int(source), place, -float(scores[row, ids[place + 1]])))
    return losses


def test_every_figure_is_the_mean_over_its_real_targets() -> None:
    model, held_out = small_model(), hand_made()
    report = evaluate(model, held_out, 4, ["books", "wiki"])
    losses = losses_token_by_token(model, held_out)
    nats = [loss for _, _, loss in losses]
    assert report.tokens == len(losses) == held_out.tokens
    assert report.cross_entropy == pytest.approx(np.mean(nats), abs=1e-6)
    assert report.perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-6)
    assert report.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / 1000, rel=1e-6)
    assert [source.source for source in report.sources] == ["books", "wiki", "source 2"]
    for index, source in enumerate(report.sources):
        own = [loss for number, _, loss in losses if number == index]
        assert source.tokens == len(own)
        assert source.cross_entropy == pytest.approx(np.mean(own), abs=1e-6)
    for place, loss in enumerate(report.position_cross_entropy):
        assert loss == pytest.approx(np.mean([nat for _, at, nat in losses if at == place]), abs=1e-6)


def test_a_place_without_targets_keeps_its_number() -> None:
    nats, targets = np.array([0.0, 0.0, 3.0, 0.0, 8.0, 0.0]), np.array([0, 0, 2, 0, 4, 0])
    scores = dataclasses.replace(score(small_model(), hand_made(), 4), position_nll_T=nats, position_tokens_T=targets)
    by_position = perplexity._by_position(scores)
    assert len(by_position) == 5
    assert [None if math.isnan(loss) else loss for loss in by_position] == [None, None, 1.5, None, 2.0]
    report = dataclasses.replace(evaluate(small_model(), hand_made(), 4), position_cross_entropy=by_position)
    assert report.to_json()["position_cross_entropy"] == [None, None, 1.5, None, 2.0]


@pytest.mark.parametrize("windows", [1, 2, 4, 5])
def test_a_few_windows_have_no_interval(windows: int) -> None:
    report = evaluate(small_model(), hand_made(windows), 4)
    for interval in (report.cross_entropy_interval, report.perplexity_interval, report.bits_per_byte_interval):
        assert (interval is None) is (windows < 5)


@pytest.mark.parametrize("rows", [1, 2, 5, 11, 100])
def test_the_result_does_not_depend_on_the_batch_size(rows: int) -> None:
    model, held_out = small_model(), hand_made()
    reference, report = evaluate(model, held_out, 3), evaluate(model, held_out, rows)
    assert report.cross_entropy == pytest.approx(reference.cross_entropy, abs=1e-6)
    low_and_high = dataclasses.astuple(report.cross_entropy_interval)
    assert low_and_high == pytest.approx(dataclasses.astuple(reference.cross_entropy_interval), abs=1e-6)


def test_dropout_and_gradients_are_off_and_the_model_trains_on_afterwards() -> None:
    held_out = hand_made()
    torch.manual_seed(2)
    config = DreamLM.Config(hidden_size=16, num_layers=2, num_heads=2, seq_length=12, dropout=0.5)
    model = config.build(40).train()
    assert evaluate(model, held_out, 4) == evaluate(model, held_out, 4)
    assert all(part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    model = small_model()
    torch.nn.init.zeros_(model.head.weight)
    report = evaluate(model, hand_made(), 4)
    assert report.perplexity == pytest.approx(40, rel=1e-6)
    assert report.cross_entropy_interval is not None
    assert report.cross_entropy_interval.low == pytest.approx(report.cross_entropy_interval.high)


def test_intervals_enclose_their_figures_and_agree_with_one_another() -> None:
    report = Evaluation.Config(rows=4, confidence=0.9, resamples=500, seed=8).build().run(small_model(), hand_made())
    nats, perplexity, bits = report.cross_entropy_interval, report.perplexity_interval, report.bits_per_byte_interval
    assert nats is not None
    assert perplexity is not None
    assert bits is not None
    assert nats.low < report.cross_entropy < nats.high
    assert perplexity.low == pytest.approx(math.exp(nats.low))
    assert bits.high == pytest.approx(nats.high * report.bits_per_byte / report.cross_entropy)


def test_the_seed_of_the_bootstrap_changes_intervals_alone() -> None:
    model, held_out = small_model(), hand_made()
    first, second = (Evaluation.Config(seed=seed).build().run(model, held_out) for seed in (0, 1))
    assert first.cross_entropy == second.cross_entropy
    assert first.cross_entropy_interval != second.cross_entropy_interval
    assert Evaluation.Config(seed=1).build().run(model, held_out) == second


def test_one_window_has_no_interval() -> None:
    report = evaluate(small_model(), hand_made(1), 4)
    assert report.cross_entropy_interval is None
    assert report.to_json()["perplexity_interval"] is None


def test_the_report_survives_strict_json() -> None:
    report = evaluate(small_model(), hand_made(), 4)
    parsed = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert parsed["cross_entropy"] == report.cross_entropy
    assert parsed["sources"][2]["tokens"] == report.sources[2].tokens
    assert parsed["cross_entropy_interval"]["low"] == report.cross_entropy_interval.low


def test_a_perplexity_beyond_a_double_is_null_in_json() -> None:
    model = small_model()
    model.head.weight.data.mul_(1e5)
    report = evaluate(model, hand_made(), 4)
    assert report.perplexity == math.inf
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["perplexity"] is None


def test_a_report_that_contradicts_itself_cannot_be_made() -> None:
    report = evaluate(small_model(), hand_made(), 4)
    for wrong in ({"perplexity": report.perplexity * 1.001}, {"sources": report.sources[:2]}):
        with pytest.raises(DreamLMError, match="are not of the same model"):
            dataclasses.replace(report, **wrong)


def test_losses_that_are_not_finite_are_reported_with_their_window() -> None:
    held_out = hand_made()
    untied = DreamLM.Config(hidden_size=16, num_layers=1, num_heads=2, seq_length=12, tie_embeddings=False).build(40)
    rare = held_out.windows[3, 0]
    with torch.no_grad():
        untied.embedding.weight[rare] = torch.nan
    affected = [number for number, window in enumerate(held_out.windows[:, :-1]) if rare in window]
    with pytest.raises(DreamLMError, match=f"not finite on {len(affected)} of 11") as caught:
        evaluate(untied, held_out, 4)
    assert caught.value.where == f"first at window {affected[0]}"


def test_windows_that_hold_other_targets_than_promised_are_refused() -> None:
    class Miscounted(HandMade):
        tokens = 130

    held_out = hand_made()
    with pytest.raises(DataError, match="promises 130 targets, its windows hold 126"):
        evaluate(small_model(), Miscounted(held_out.windows, held_out.documents, held_out.sources), 4)


def test_a_head_that_computes_another_loss_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    honest = model.head.token_nll
    monkeypatch.setattr(model.head, "token_nll", lambda hidden, target: honest(hidden, target) * 1.001)
    with pytest.raises(DreamLMError, match="chunked and plain cross-entropy differ"):
        evaluate(model, hand_made(), 4)


def test_no_held_out_text_is_an_error() -> None:
    with pytest.raises(DataError, match="no held-out text"):
        evaluate(small_model(), hand_made(0), 4)


def test_progress_counts_every_batch() -> None:
    seen: list[tuple[int, int]] = []
    report = evaluate(small_model(), hand_made(), 4, on_progress=lambda done, total: seen.append((done, total)))
    assert isinstance(report, PerplexityReport)
    assert seen == [(1, 3), (2, 3), (3, 3)]
