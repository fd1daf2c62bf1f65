"""What is checked, and searched for causes, is what a model is trained by: not the clean path of diffusion alone."""

from collections.abc import Callable

import pytest
import torch
from small_runs import Run
from stream_of_text import TextStream
from torch import nn

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.modules.segment_summary import SegmentSummary
from dreamlm.core.training import sanity
from dreamlm.core.training.backend.backend import WindowBatch
from dreamlm.core.training.diagnosis import name_cause

Make = Callable[..., Run]
DIFFUSION = {"diffusion": {"block_size": 4}, "dropout": 0.1}


def micro_batch(run: Run, rows: int = 2) -> WindowBatch:
    windows, _ = run.stream.draw(run.stream.start(), rows)
    return WindowBatch(run.stream.read(windows), seed=3)


def read(run: Run, micro: WindowBatch, row: int) -> str:
    return run.stream.describe(micro.batch.windows[row])[0]


@pytest.mark.parametrize("options", [{}, DIFFUSION, {**DIFFUSION, "segment_length": 8, "modules": ["segment_summary"]}])
def test_a_fresh_model_has_the_loss_of_one_that_knows_nothing(run: Make, options: dict[str, object]) -> None:
    sanity.check_initial_loss(run(None, options).backend(), 16)


def test_a_fresh_model_that_cannot_read_hidden_tokens_is_found(run: Make) -> None:
    backend = run(None, DIFFUSION).backend()
    assert backend.model.mask_vector is not None
    with torch.no_grad():
        backend.model.mask_vector.fill_(float("inf"))
    with pytest.raises(TrainingFailed, match="the loss of the fresh model is nan"):
        sanity.check_initial_loss(backend, 16)


@pytest.mark.parametrize("documents", ["of two segments", "of four"])
def test_a_query_that_never_had_a_choice_has_done_nothing(run: Make, documents: str) -> None:
    """In documents of two segments every token reads one thought, which has all the weight whatever the query is."""
    stack = {"type": "thought_stack", "thought_dims": (2, 2, 2), "stack_size": 2}
    short = documents == "of two segments"
    reading = run(TextStream(boundaries=short), {"segment_length": 4, "modules": [stack]})
    if not short:
        reading.go()
        return
    with pytest.raises(TrainingFailed, match=r"did not change 1 of 47 parameters: cognition\.0\.read_norm") as caught:
        reading.go()
    assert "longer documents, or a shorter model.segment_length" in caught.value.hint


def after_calls(part: nn.Module, calls: int, row: int) -> None:
    """From that call on, the part's output is infinite in a row."""
    count = 0

    def overflow(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        if count <= calls:
            return output
        bad = output.clone()
        bad[row] = float("inf")
        return bad

    part.register_forward_hook(overflow)


def test_an_overflow_among_hidden_tokens_is_found(run: Make) -> None:
    """The clean path passes the layer first, and is finite."""
    diffusion = run(None, DIFFUSION)
    backend, micro = diffusion.backend(), micro_batch(diffusion)
    after_calls(backend.model.layers[0].feed_forward.down, calls=1, row=1)
    cause = name_cause(backend, diffusion.stream, [micro])
    what = "the first output that is not finite is that of layers.0.feed_forward.down"
    assert cause == f"{what}, reading {read(diffusion, micro, 1)}"


def test_a_gradient_that_only_hidden_tokens_have_is_found(run: Make) -> None:
    diffusion = run(None, DIFFUSION)
    backend, micro = diffusion.backend(), micro_batch(diffusion, rows=1)
    assert backend.model.mask_vector is not None
    backend.model.mask_vector.register_hook(lambda gradient: gradient * float("inf"))
    assert name_cause(backend, diffusion.stream, [micro]) == (
        f"every layer's output is finite, but the gradient of mask_vector is not, reading {read(diffusion, micro, 0)}"
    )


def test_a_loss_of_a_module_that_is_not_finite_is_named(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with_summary = run(None, {"segment_length": 4, "modules": ["segment_summary"]})
    backend, micro = with_summary.backend(), micro_batch(with_summary, rows=1)
    monkeypatch.setattr(SegmentSummary, "_reconstruction", lambda *given: torch.full((1,), float("inf")), raising=True)
    cause = name_cause(backend, with_summary.stream, [micro])
    assert cause.startswith("the first output that is not finite is that of the loss segment_summary.reconstruction")


def test_what_is_not_laid_out_by_rows_names_all_of_them(run: Make) -> None:
    """The experts of a mixture read tokens of any rows."""
    mixed = run(None, {"feed_forward": {"type": "moe", "num_experts": 4, "expert_size": 8}})
    backend, micro = mixed.backend(), micro_batch(mixed, rows=3)
    experts = backend.model.layers[1].feed_forward.experts

    def overflow(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        output[5:] = float("inf")

    for expert in experts:
        expert.register_forward_hook(overflow)
    cause = name_cause(backend, mixed.stream, [micro])
    assert "layers.1.feed_forward.experts." in cause
    assert all(read(mixed, micro, row) in cause for row in range(3)), cause
