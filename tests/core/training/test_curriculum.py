"""Stages of a run: a pure function of the step, which reaches the live model and is all that a resume needs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from small_runs import Run
from staged_module import StagedConfig
from stream_of_text import VOCAB

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training.by_stage import by_stage
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.curriculum import DREAMING, Curriculum, CurriculumConfig, CurriculumStage
from dreamlm.core.training.hooks import EvaluationReport, RunEnd, StagePlace
from dreamlm.core.training.recorders import MetricsFile, ReportFile
from dreamlm.core.training.surroundings import Validation

Make = Callable[..., Run]
SEGMENTS = {"segment_length": 4}


def stage(name: str, steps: int, length: int = 2, dreams: int = 2, hops: int = 1) -> CurriculumStage:
    return CurriculumStage(
        name=name, steps=steps, dream_length=length, num_dream_sequences=dreams, graph_reasoning_hops=hops
    )


STAGES = (stage("first", 5), stage("second", 7, length=3, hops=2), stage("third", 100, length=4, dreams=3, hops=3))
"""Of a run of 20 steps: edges behind steps 5 and 12."""


@pytest.fixture
def staged(run: Make) -> Make:
    def make(stages: tuple[CurriculumStage, ...] = STAGES, **options: Any) -> Run:
        values = [one.model_dump() for one in stages]
        made = run(None, SEGMENTS, curriculum=values, **options)
        made.decoder = StagedConfig
        return made

    return make


def settings(length: int, dreams: int, hops: int, images: bool = False) -> Stage:
    return Stage(dream_length=length, num_dream_sequences=dreams, graph_reasoning_hops=hops, images=images)


def figures(run: Run) -> list[tuple[int, float, float, StagePlace | None]]:
    return [(step.step, step.nll, step.gradient_norm, step.stage) for step in run.hook.steps]


def dreamt(model: DreamLM) -> tuple[int, int]:
    """Rows and hops of the live module."""
    (module,) = model.cognition
    return module.rows, module.hops  # type: ignore[return-value]


def test_the_table_of_dreaming() -> None:
    assert [(one.name, one.steps, one.settings) for one in DREAMING] == [
        ("core", 1000, settings(3, 2, 2)),
        ("multi_hop", 2000, settings(5, 4, 3)),
        ("causal", 3000, settings(7, 4, 4)),
        ("multimodal", 5000, settings(5, 4, 3, images=True)),
    ]
    assert TrainingConfig(curriculum="dreaming").curriculum == DREAMING  # type: ignore[arg-type]
    assert TrainingConfig(curriculum=None).curriculum == TrainingConfig().curriculum == ()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("dreams", 'must be "dreaming" or a list of stages, not "dreams"'),
        ([STAGES[0].model_dump(), STAGES[0].model_dump()], "several stages are called first; give each a name"),
        ([{**STAGES[0].model_dump(), "steps": 0}], "greater than or equal to 1"),
        ([{**STAGES[0].model_dump(), "hops": 1}], "Extra inputs are not permitted"),
    ],
)
def test_what_is_no_curriculum_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainingConfig(curriculum=value)


def test_an_editor_is_told_the_name_and_the_stages() -> None:
    text = json.dumps(TypeAdapter(CurriculumConfig).json_schema())
    assert '"const": "dreaming"' in text
    assert '"graph_reasoning_hops"' in text


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), step=st.integers(0, 60))
def test_a_step_belongs_to_the_stage_that_its_number_falls_into(lengths: list[int], step: int) -> None:
    """Against the list of all steps, written out; the last stage goes on."""
    names = [str(number) for number in range(len(lengths))]
    written_out = [name for name, steps in zip(names, lengths, strict=True) for _ in range(steps)]
    expected = written_out[step] if step < len(written_out) else names[-1]
    curriculum = Curriculum([stage(name, steps) for name, steps in zip(names, lengths, strict=True)])
    place = curriculum.place(step)
    assert place is not None
    assert (place.name, place.number, place.of) == (expected, names.index(expected) + 1, len(names))
    last = expected == names[-1]
    assert place.last_step == (None if last else max(i for i, name in enumerate(written_out) if name == expected) + 1)
    begins = step < len(written_out) and (step == 0 or written_out[step - 1] != written_out[step])
    assert bool(curriculum.beginning(step)) == begins


def test_without_stages_there_is_nothing_to_enter_and_nothing_to_say() -> None:
    model = StagedConfig(**SEGMENTS).build(VOCAB)
    nothing = Curriculum(())
    assert not nothing.enter(model, 0)
    assert model.config.stage is None
    assert (nothing.place(3), nothing.beginning(0), [*nothing.remarks(1, model.config)]) == (None, "", [])


@pytest.mark.parametrize(
    ("images", "modules", "vain"),
    [([True, True], [], True), ([False, True], [], False), ([False], [], False), ([True], [{"type": "staged"}], False)],
)
def test_stages_that_could_only_change_the_eyes_and_do_not_are_remarked(
    images: list[bool], modules: list[dict[str, str]], vain: bool
) -> None:
    eyes = {"type": "lite", "image_size": 16, "num_prefix_tokens": 2}
    model = StagedConfig.model_validate({**SEGMENTS, "modules": modules, "vision": eyes})
    stages = [stage(str(number), 5).model_copy(update={"images": looks}) for number, looks in enumerate(images)]
    said = [*Curriculum(stages).remarks(100, model)]
    assert said == ["train.curriculum: its stages change nothing: this model looks at images without them, too"] * vain


def test_entering_reaches_every_module_and_is_said_in_the_configuration() -> None:
    config = StagedConfig.model_validate({**SEGMENTS, "modules": [{"type": "staged"}, {"type": "staged"}]})
    model = config.build(VOCAB)
    model.enter(settings(3, 2, 2))
    assert [(module.rows, module.hops) for module in model.cognition] == [(6, 2), (6, 2)]
    assert model.config.stage == settings(3, 2, 2)
    assert model.config.model_copy(update={"stage": None}) == config


def test_a_model_in_a_stage_does_not_depend_on_the_way_there() -> None:
    """Nor on whether it was built in it."""
    tokens = torch.arange(32).view(2, 16) % VOCAB

    def logits(*way: Stage, **values: Any) -> torch.Tensor:
        torch.manual_seed(0)
        model = StagedConfig.model_validate({**SEGMENTS, **values}).build(VOCAB)
        for one in way:
            model.enter(one)
        return model.logits(model(tokens, torch.zeros_like(tokens), model.start(2)).hidden)

    one, other = settings(2, 2, 1), settings(3, 4, 3)
    assert torch.equal(logits(one, other, one), logits(one))
    assert torch.equal(logits(stage=one), logits(one))
    assert not torch.equal(logits(other), logits(one))
    assert not torch.equal(logits(settings(2, 2, 2)), logits(one))


def test_a_configuration_does_not_take_a_stage_that_its_modules_cannot_enter() -> None:
    with pytest.raises(ValidationError, match="needs 16 rows, the table has 12"):
        StagedConfig(stage=settings(4, 4, 1), **SEGMENTS)


def test_a_run_goes_through_its_stages(staged: Make) -> None:
    """Seen by the model as each step computes it, and told at each edge."""
    seen = []
    whole = staged()
    backend = whole.backend()
    compute = backend.forward_backward

    def look(micro_batches: Any) -> Any:
        seen.append(dreamt(backend.model))
        return compute(micro_batches)

    backend.forward_backward = look  # type: ignore[method-assign]
    whole.go(backend=backend)
    assert seen == [(4, 1)] * 5 + [(6, 2)] * 7 + [(12, 3)] * 8
    places = [step.stage for step in whole.hook.steps]
    assert places[4] == StagePlace("first", 1, 3, 5)
    assert places[5] == places[11] == StagePlace("second", 2, 3, 12)
    assert places[12] == StagePlace("third", 3, 3, None)
    assert [notice for notice in whole.hook.notices if "stage" in notice] == [
        "step 1: stage first, 1 of 3: 2 dreams of 2 steps, 1 hop, without images",
        "step 6: stage second, 2 of 3: 2 dreams of 3 steps, 2 hops, without images",
        "step 13: stage third, 3 of 3: 3 dreams of 4 steps, 3 hops, without images",
    ]


def test_every_snapshot_and_evaluation_has_the_stage_that_its_weights_were_trained_in(staged: Make) -> None:
    """Also that of an edge itself, and the first of all, which no step was taken for."""
    whole = staged(save_interval_steps=1, eval_tokens=4 * 16)
    backend = whole.backend()
    saved, validated = [], []
    save = whole.shelf.save

    def keep(state: Any, tensors: Any) -> Path:
        saved.append((state.step, dreamt(backend.model)))
        return save(state, tensors)

    def validate() -> Validation:
        validated.append(dreamt(backend.model))
        return Validation(1.0, 1.0, {})

    whole.shelf.save = keep  # type: ignore[method-assign]
    whole.validate = validate
    whole.go(backend=backend)
    expected = [(4, 1)] * 5 + [(6, 2)] * 7 + [(12, 3)] * 8
    assert saved == [*enumerate([expected[0], *expected])]
    assert validated == expected
    assert [report.stage and report.stage.number for report in whole.hook.evaluations] == [1] * 5 + [2] * 7 + [3] * 8


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resume_before_at_and_behind_an_edge_is_exact(staged: Make, optimizer: str) -> None:
    options = {"save_interval_steps": 1, "optimizer": optimizer, "eval_tokens": 4 * 16 * 3}
    whole = staged(**options)
    final = whole.go().gather()
    for stopped_at in (0, 4, 5, 6, 12):
        state, tensors = whole.shelf.saved[stopped_at]
        assert state.step == stopped_at
        again = staged(**options)
        resumed = again.go((state, tensors)).gather()
        assert figures(again) == figures(whole)[stopped_at:]
        assert again.shelf.saved[-1][0] == whole.shelf.saved[-1][0]
        for found, wanted in ((resumed.model, final.model), (resumed.optimizer, final.optimizer)):
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_the_stages_change_what_is_learned(staged: Make) -> None:
    plain = staged((stage("only", 1),), sanity_checks=False)
    plain.go()
    whole = staged()
    whole.go()
    first, second = ([step.nll for step in one.hook.steps] for one in (whole, plain))
    assert first[:5] == second[:5]
    assert all(one != other for one, other in zip(first[6:], second[6:], strict=True))


def test_what_no_stage_has_reached_yet_is_only_not_trained(staged: Make) -> None:
    """The vector of further hops, and rows of the table, get their first gradient in the second stage."""
    whole = staged(save_interval_steps=1, optimizer={"type": "adamw", "weight_decay": 0.0}, sanity_checks=False)
    whole.go()
    begun, at_edge, behind = (whole.shelf.saved[step][1].model for step in (0, 5, 6))
    further, table = "cognition.0.further", "cognition.0.table"
    assert torch.equal(begun[further], at_edge[further])
    assert not torch.equal(at_edge[further], behind[further])
    assert torch.equal(begun[table][4:], at_edge[table][4:])
    assert not torch.equal(begun[table][:4], at_edge[table][:4])
    moved = (at_edge[table] != behind[table]).any(dim=1)
    assert moved.tolist() == [True] * 6 + [False] * 6


def test_what_a_later_stage_may_reach_is_no_failure_and_is_said(staged: Make) -> None:
    """In the last stage it is one: nothing will reach it any more."""
    late = staged((stage("first", 12), stage("second", 3, hops=2)))
    late.go()
    assert "10 steps of this stage did not change cognition.0.further: a later one has to" in late.hook.notices
    with pytest.raises(TrainingFailed, match=r"did not change 1 of 29 parameters: cognition\.0\.further"):
        staged((stage("only", 12),)).go()


def test_a_run_that_ends_too_early_says_which_stages_it_does_not_come_to(staged: Make) -> None:
    short = staged(train_tokens=4 * 16 * 12)
    short.go()
    what = "the run ends at step 12 and does not come to third; the last stage begins at step 13"
    assert f"train.curriculum: {what}" in short.hook.notices
    enough = staged(train_tokens=4 * 16 * 13)
    enough.go()
    assert not any("does not come to" in notice for notice in enough.hook.notices)


def test_a_model_without_eyes_says_that_images_are_asked_for_in_vain(staged: Make) -> None:
    looks = CurriculumStage(name="look", steps=3, **settings(2, 2, 1, images=True).model_dump())
    blind = staged((looks,), sanity_checks=False)
    blind.go()
    assert "train.curriculum: look is to look at images, and this model reads text alone" in blind.hook.notices


def test_the_report_has_each_stage_with_its_losses(tmp_path: Path, staged: Make) -> None:
    """As a resume leaves it too: it is read from the metrics, which a resume cuts off at its snapshot."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    whole = staged(eval_tokens=4 * 16 * 6)
    whole.go()
    metrics.on_start(whole.hook.starts[0])
    for report in whole.hook.steps:
        metrics.on_step(report)
    for evaluation in whole.hook.evaluations:
        metrics.on_evaluation(evaluation)
    ReportFile(tmp_path / "report.json", tmp_path / "metrics.jsonl").on_end(RunEnd("finished", 20, 1, 1.0, 1, 1, 1))
    stages = json.loads((tmp_path / "report.json").read_text())["stages"]
    nll = [report.nll for report in whole.hook.steps]
    assert [(one["name"], one["first_step"], one["last_step"]) for one in stages] == [
        ("first", 1, 5), ("second", 6, 12), ("third", 13, 20),
    ]  # fmt: skip
    assert [one["nll"] for one in stages] == pytest.approx([sum(nll[:5]) / 5, sum(nll[5:12]) / 7, sum(nll[12:]) / 8])
    assert [one["last_nll"] for one in stages] == [nll[4], nll[11], nll[19]]
    assert [one["validation_nll"] for one in stages] == [None, 1.0, 1.0]


def test_a_stage_without_a_finite_loss_has_none() -> None:
    place = {"name": "first", "number": 1, "of": 1, "last_step": None}
    step = {"step": 1, "tokens": 0, "nll": "nan", "seconds": 1.0, "stage": place}
    (only,) = by_stage([step, {"step": 2, "nll": 1.0}], [])
    assert (only["nll"], only["last_nll"], only["last_step"]) == (None, None, 1)


def test_a_run_without_a_curriculum_reports_none(run: Make, tmp_path: Path) -> None:
    plain = run()
    plain.go()
    assert plain.hook.starts[0].stage is None
    assert {step.stage for step in plain.hook.steps} == {None}
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.on_start(plain.hook.starts[0])
    metrics.on_evaluation(EvaluationReport(1, 1, 1.0, 1.0, 1.0, {}, True))
    ReportFile(tmp_path / "report.json", tmp_path / "metrics.jsonl").on_end(RunEnd("finished", 1, 1, 1.0, 1, 1, 1))
    assert "stages" not in json.loads((tmp_path / "report.json").read_text())
