"""`eval --dreams` end to end, for causal and diffusion models, and what it says where there is nothing to see."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import Workplace

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.section import Section
from dreamlm.wiring.dreams import NO_DREAM, NO_GATE, ONE_DOCUMENT, ONE_TEXT, DreamsRequest
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.module_sections import OF_BOUNDS

Trained = Callable[..., Path]
SIZES = {"num_dream_sequences": 2, "dream_length": 2, "expert_num_layers": 1, "expert_num_heads": 4}
MODULE = json.dumps({"type": "dreaming", "graph_num_heads": 4, **SIZES})
SHAPE = ("model.segment_length=8", f"model.modules=[{MODULE}]")
KINDS = ("own", "zeroed", "mean", "another's", "reversed")


def section(run: Path, *sets: str, text: Path | None = None) -> Section:
    request = EvaluationRequest(run, text=text, sets=sets, sections=[DreamsRequest()])
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
    assert [figure.name for figure in one.figures if figure.name.startswith("loss, ")] == [
        f"loss, {name} dreams{where}" for where in ("", ", all tokens") for name in KINDS
    ]
    assert one.figure("zeroed - own").interval is not None
    loads = [figure.value for figure in one.figures if figure.name.startswith("load, dream 1")]
    assert sum(loads) == pytest.approx(1.0)
    assert (one.details["dreams"], one.details["experts"]) == (2, 4)
    assert one.notes == ((OF_BOUNDS,) if diffusion else ())


def test_a_model_that_does_not_dream_is_refused_before_anything_is_measured(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("model.segment_length=8", 'model.modules=[{"type": "segment_summary"}]')
    monkeypatch.setattr("dreamlm.core.evaluation.perplexity.Evaluation.run", lambda *arguments: 1 / 0)
    with pytest.raises(UserMistake, match="--dreams: this model does not dream") as caught:
        section(run)
    assert "model.modules" in caught.value.valid[0]
    assert '--set model.modules=\'[{"type": "dreaming"}]\'' in caught.value.hint


def test_of_a_single_document_anothers_dreams_are_left_out_by_name(trained: Trained, place: Workplace) -> None:
    text = place.folder / "other.txt"
    text.write_text("the cat saw a dog " * 40)
    found = section(trained(*SHAPE), text=text)
    assert found.notes == (ONE_DOCUMENT,)
    assert not any("another's" in figure.name for figure in found.figures)
    assert found.figure("loss, mean dreams").value is not None
    assert found.details["documents"] == 1


def test_texts_shorter_than_a_segment_leave_nothing_to_say_of_dreams(trained: Trained, place: Workplace) -> None:
    text = place.folder / "short.txt"
    text.write_text("a")
    found = section(trained(*SHAPE), text=text)
    assert found.notes == (ONE_TEXT, ONE_DOCUMENT, NO_DREAM.format(size=8))
    assert found.figure("distance, same segment").value is None
    assert found.figure("zeroed - own").value is None
    assert found.figure("loss, own dreams, all tokens").value is not None


def test_of_two_modules_the_first_is_looked_at_and_the_section_says_so(trained: Trained) -> None:
    found = section(trained("model.segment_length=8", f"model.modules=[{MODULE}, {MODULE}]"))
    assert found.notes == ("of 2 modules that dream only dreaming is looked at",)
    assert found.details["module"] == "dreaming"


def test_without_a_gate_the_section_says_that_nobody_chooses(trained: Trained) -> None:
    module = json.dumps({**json.loads(MODULE), "use_gate": False})
    found = section(trained("model.segment_length=8", f"model.modules=[{module}]"))
    assert found.notes == (NO_GATE,)
    assert found.figure("mutual information, expert set; dream").value == 1.0
    assert found.figure("conditional entropy, expert set | dream").value == 0.0
