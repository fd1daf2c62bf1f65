"""`eval --thoughts` end to end, for causal and diffusion models, and what it says where there is nothing to see."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import Workplace

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.section import Section
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.module_sections import OF_BOUNDS
from dreamlm.wiring.thoughts import NO_THOUGHT, ONE_DOCUMENT, ThoughtsRequest

Trained = Callable[..., Path]
SHAPE = ("model.segment_length=8", 'model.modules=[{"type": "thought_stack", "thought_dims": [2, 2, 3]}]')
STACKS = ("true", "zeroed", "shuffled", "another's")


def section(run: Path, *sets: str, text: Path | None = None) -> Section:
    request = EvaluationRequest(run, text=text, sets=sets, sections=[ThoughtsRequest()])
    (found,) = evaluate(request, lambda doing, done, total: None).sections
    assert json.dumps(found.to_json(), allow_nan=False)
    return found


@pytest.mark.parametrize("diffusion", [(), ("model.diffusion.block_size=4",)], ids=["causal", "diffusion"])
def test_the_figures_do_not_depend_on_the_batch_size(trained: Trained, diffusion: tuple[str, ...]) -> None:
    run = trained(*SHAPE, *diffusion)
    one, many = (section(run, f"eval.rows={rows}", "eval.bound_samples=2") for rows in (1, 5))
    assert {figure.name: figure.value for figure in one.figures} == {
        figure.name: pytest.approx(figure.value, abs=1e-4) for figure in many.figures
    }
    for name in STACKS:
        assert one.figure(f"loss, {name} stack").value > 0
    assert one.figure("zeroed - true").interval is not None
    assert one.details["evolution"][0]["segment_length"] == 8
    assert len(one.details["evolution"][0]["slot_norms"]) == 8
    (picture,) = one.pictures
    assert one.file_of(picture) == "thoughts_evolution.png"
    assert one.notes == ((OF_BOUNDS,) if diffusion else ())


def test_a_model_without_thoughts_is_refused_before_anything_is_measured(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("model.segment_length=8", 'model.modules=[{"type": "segment_summary"}]')
    monkeypatch.setattr("dreamlm.core.evaluation.perplexity.Evaluation.run", lambda *arguments: 1 / 0)
    with pytest.raises(UserMistake, match="this model has no stack of thoughts") as caught:
        section(run)
    assert "model.modules" in caught.value.valid[0]
    assert '--set model.modules=\'[{"type": "thought_stack"}]\'' in caught.value.hint


def test_of_a_single_text_another_documents_stack_is_left_out_by_name(trained: Trained, place: Workplace) -> None:
    text = place.folder / "other.txt"
    text.write_text("the cat saw a dog " * 40)
    found = section(trained(*SHAPE), text=text)
    assert found.notes == (ONE_DOCUMENT,)
    assert not any("another's" in figure.name for figure in found.figures)
    assert found.figure("loss, shuffled stack").value is not None
    assert found.details["evolution"][0]["opening"].startswith("the cat saw a dog")
    assert found.details["documents"] == 1


def test_texts_shorter_than_a_segment_leave_nothing_to_say_of_thoughts(trained: Trained, place: Workplace) -> None:
    text = place.folder / "short.txt"
    text.write_text("a")
    found = section(trained(*SHAPE), text=text)
    assert NO_THOUGHT.format(size=8) in found.notes
    assert found.pictures == ()
    assert found.figure("norm mean").value is None
    assert found.figure("zeroed - true").value is None
    assert found.figure("loss, true stack, all tokens").value is not None


def test_of_two_stacks_the_first_is_looked_at_and_the_section_says_so(trained: Trained) -> None:
    stack = '{"type": "thought_stack", "thought_dims": [2, 2, 3]}'
    found = section(trained("model.segment_length=8", f"model.modules=[{stack}, {stack}]"))
    assert found.notes == ("of 2 stacks of thoughts only thought_stack is looked at",)
    assert found.details["module"] == "thought_stack"
