"""`eval --diversity` end to end: the same figures in any batches, and what cannot be measured is left out by name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workplace import Workplace

from dreamlm.core.errors import RangeError, UserMistake
from dreamlm.core.evaluation.section import Section
from dreamlm.data_sources.corpus import Corpus
from dreamlm.wiring.diversity import NO_REFERENCE, SAME_MODEL, DiversityRequest
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.places import corpus_folder

Trained = Callable[..., Path]
WRITING = ("generate.max_new_tokens=12", "generate.temperature=1.0", "eval.diversity.words=6")


def section(run: Path, diversity: DiversityRequest, *sets: str, **options: Any) -> Section:
    request = EvaluationRequest(run, sets=[*WRITING, *sets], sections=[diversity], **options)
    report = evaluate(request, lambda doing, done, total: None)
    (found,) = report.sections
    assert report.perplexity.tokens > 0
    return found


def values(found: Section) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in found.figures}


@pytest.mark.parametrize(
    "shape",
    [(), ("model.segment_length=8", 'model.modules=[{"type": "segment_summary"}]')],
    ids=["plain", "with a module"],
)
def test_the_figures_do_not_depend_on_the_batch_size(trained: Trained, shape: tuple[str, ...]) -> None:
    run = trained(*shape)
    one, many = (
        section(run, DiversityRequest(9, reference=run), f"generate.rows={rows}", f"eval.rows={rows}")
        for rows in (1, 5)
    )
    assert one.details == many.details
    assert values(one) == {
        name: pytest.approx(value, abs=1e-5) if name == "log-likelihood" else value
        for name, value in values(many).items()
    }
    assert list(values(one)) == [
        *("distinct-1", "distinct-2", "distinct-3", "self-BLEU", "entropy"),
        *("repetition", "seen 8-grams", "log-likelihood"),
    ]
    assert SAME_MODEL in one.notes


def test_prompts_are_the_beginnings_of_held_out_documents(trained: Trained, place: Workplace) -> None:
    found = section(trained(), DiversityRequest(4), "eval.diversity.prompt_words=3")
    documents = (place.folder / "text.jsonl").read_text()
    assert all(f'{{"text": "{one["prompt"]} ' in documents for one in found.details["written"])
    assert {len(one["prompt"].split()) for one in found.details["written"]} == {3}
    assert found.details["generate"]["max_new_tokens"] == 12
    assert NO_REFERENCE in found.notes


def test_a_copy_of_the_training_text_has_been_seen_and_a_new_text_has_not(
    trained: Trained, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    corpus = Corpus.open(corpus_folder(place.preset()))
    tokens = corpus._open_shard(next((corpus.folder / "train").iterdir())).tokens[1:30].tolist()
    copy = corpus.tokenizer().decode(tokens)

    def written(*arguments: object, **options: object) -> list[Any]:
        from dreamlm.core.generation.row import Generation

        return [Generation("p", one, (), "end", 0.0, 0) for one in (copy, "Zq!Zq?Wv;Kx")]

    monkeypatch.setattr("dreamlm.wiring.diversity.written", written)
    found = section(run, DiversityRequest(2))
    new = len(corpus.tokenizer().encode("Zq!Zq?Wv;Kx")) - 7
    copied = len(corpus.tokenizer().encode(copy)) - 7
    assert new > 0
    assert found.figure("seen 8-grams").value == pytest.approx(copied / (copied + new))


def test_a_training_corpus_that_is_not_here_is_named_and_its_figure_left_out(
    trained: Trained, place: Workplace
) -> None:
    run = trained()
    folder = corpus_folder(place.preset())
    shutil.rmtree(folder)
    text = place.folder / "other.txt"
    text.write_text("the cat saw a dog " * 20)
    found = section(run, DiversityRequest(3, prompts=["the cat"]), text=text)
    assert "seen 8-grams" not in values(found)
    assert any("seen 8-grams are left out" in note and str(folder) in note for note in found.notes)
    with pytest.raises(UserMistake, match="no held-out document to begin the texts with") as caught:
        section(run, DiversityRequest(3), text=text)
    assert "--prompts FILE" in caught.value.hint


def test_with_a_text_to_measure_on_prompts_still_come_from_the_corpus(trained: Trained, place: Workplace) -> None:
    text = place.folder / "other.txt"
    text.write_text("the cat saw a dog " * 20)
    found = section(trained(), DiversityRequest(3), text=text)
    assert found.details["prompts"] == 3
    assert "seen 8-grams" in values(found)


def test_a_reference_with_another_tokenizer_judges_by_its_own_tokens(trained: Trained, place: Workplace) -> None:
    run, judge = trained(), place.folder / "judge"
    place.train(judge, "tokenizer.vocab_size=270")
    found = section(run, DiversityRequest(6, reference=judge))
    figure = found.figure("log-likelihood")
    assert figure.value is not None
    assert -6.0 < figure.value < 0.0
    assert str(judge) in figure.unit
    assert not {SAME_MODEL, NO_REFERENCE} & set(found.notes)


def test_mistakes_show_before_anything_is_measured(
    trained: Trained, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    monkeypatch.setattr("dreamlm.core.evaluation.perplexity.Evaluation.run", lambda *arguments: 1 / 0)
    with pytest.raises(UserMistake, match="this folder does not exist"):
        section(run, DiversityRequest(3, reference=place.folder / "absent"))
    with pytest.raises(UserMistake, match="greedy writing has one text for each of 1 prompts"):
        section(run, DiversityRequest(3, prompts=["the"]), "generate.greedy=true")
    with pytest.raises(RangeError, match="1 texts do not differ"):
        section(run, DiversityRequest(1))
