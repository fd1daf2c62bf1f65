"""Prompts out of records and documents: split by a hash, each once a pass, in an order of its own every time."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.rl.answer import Prompt
from dreamlm.data_sources.prompts import PromptData, Prompts, read_prompts
from dreamlm.data_sources.sources.source import SourceContext, SourceReport


def records(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return {"type": "jsonl", "name": path.stem, "paths": [str(path)]}


def questions(path: Path, numbers: range) -> dict[str, Any]:
    return records(path, [{"question": f"what is {n}?", "answer": f"it is {n}"} for n in numbers])


def read(tmp_path: Path, *sources: dict[str, Any], **config: Any) -> tuple[Prompts, list[SourceReport]]:
    reports: list[SourceReport] = []
    parsed = [PromptData(source=one).source for one in sources]  # type: ignore[arg-type]
    context = SourceContext(base_folder=tmp_path, cache_folder=tmp_path / "cache")
    data = PromptData.model_validate(config)
    return read_prompts(data, [one for one in parsed if one is not None], context, reports, seed=3), reports


ASKED = {"prompt": "Q: {question}\nA: ", "reference": "{answer}"}


def test_templates_make_a_prompt_and_its_reference_of_each_record(tmp_path: Path) -> None:
    prompts, _ = read(tmp_path, source=questions(tmp_path / "q.jsonl", range(60)), **ASKED)
    everything = {*prompts.train, *prompts.held_out}
    assert everything == {Prompt(f"Q: what is {n}?\nA: ", f"it is {n}") for n in range(60)}
    alone, _ = read(tmp_path, source=questions(tmp_path / "q.jsonl", range(60)), prompt="Q: {question}\nA: ")
    assert {prompt.text for prompt in (*alone.train, *alone.held_out)} == {prompt.text for prompt in everything}


def test_documents_begin_with_their_prompt_and_go_on_with_the_reference(tmp_path: Path) -> None:
    rows = [{"text": f"the {n}. ship\nsailed  away from here"} for n in range(40)] + [{"text": "too short"}]
    prompts, reports = read(tmp_path, records(tmp_path / "d.jsonl", rows), words=4)
    assert Prompt("the 7. ship\nsailed", " away from here") in {*prompts.train, *prompts.held_out}
    assert reports[0].drops == {"prompt: the document is not longer": 1}


def test_a_prompt_is_on_one_side_and_stays_there_whatever_else_is_read(tmp_path: Path) -> None:
    few, _ = read(tmp_path, source=questions(tmp_path / "a.jsonl", range(100)), **ASKED)
    many, _ = read(tmp_path, source=questions(tmp_path / "b.jsonl", range(200)), **ASKED)
    assert not {*few.train} & {*few.held_out}
    assert {*few.held_out} <= {*many.held_out}
    assert 2 <= len(few.held_out) <= 25
    repeated, _ = read(tmp_path, source=questions(tmp_path / "c.jsonl", range(50)), **ASKED)
    (tmp_path / "c.jsonl").write_text((tmp_path / "c.jsonl").read_text() + "\n" + (tmp_path / "c.jsonl").read_text())
    source = {"type": "jsonl", "name": "c", "paths": [str(tmp_path / "c.jsonl")]}
    assert read(tmp_path, source=source, **ASKED)[0].fingerprint == repeated.fingerprint


def test_a_source_of_its_own_can_be_held_out(tmp_path: Path) -> None:
    train, test = questions(tmp_path / "train.jsonl", range(30)), questions(tmp_path / "test.jsonl", range(25, 35))
    prompts, _ = read(tmp_path, source=train, held_out=test, **ASKED)
    assert {prompt.reference for prompt in prompts.held_out} == {f"it is {n}" for n in range(25, 35)}
    assert {prompt.reference for prompt in prompts.train} == {f"it is {n}" for n in range(25)}


def test_a_limit_takes_from_every_source(tmp_path: Path) -> None:
    sources = [
        records(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n} and so on and on"} for n in range(50)])
        for name in ("a", "b")
    ]
    prompts, _ = read(tmp_path, *sources, words=2, limit=40)
    assert Counter(prompt.text[0] for prompt in (*prompts.train, *prompts.held_out)) == {"a": 20, "b": 20}


def test_every_pass_has_each_prompt_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    prompts, _ = read(tmp_path, source=questions(tmp_path / "q.jsonl", range(40)), **ASKED)
    size = len(prompts.train)
    first, second = prompts.draw(0, size), prompts.draw(size, size)
    assert sorted(map(str, first)) == sorted(map(str, second)) == sorted(map(str, prompts.train))
    assert first != second
    parts = [*prompts.draw(0, 7), *prompts.draw(7, size), *prompts.draw(size + 7, size - 7)]
    assert parts == [*first, *second]


def test_what_was_read_has_a_fingerprint(tmp_path: Path) -> None:
    same = [read(tmp_path, source=questions(tmp_path / "q.jsonl", range(40)), **ASKED)[0].fingerprint for _ in range(2)]
    other, _ = read(tmp_path, source=questions(tmp_path / "q.jsonl", range(41)), **ASKED)
    assert same[0] == same[1] != other.fingerprint


def test_mistakes_are_named(tmp_path: Path) -> None:
    source = questions(tmp_path / "q.jsonl", range(3))
    with pytest.raises(ValidationError, match="reference needs a prompt"):
        PromptData.model_validate({"source": source, "reference": "{answer}"})
    with pytest.raises(ValidationError, match="name their source too"):
        PromptData.model_validate({"prompt": "{question}"})
    with pytest.raises(ValidationError, match="a source of type 'pdf' has none"):
        PromptData.model_validate({"source": {"type": "pdf", "paths": ["x"]}, "prompt": "{question}"})
    with pytest.raises(UserMistake, match="have no field 'quest'"):
        read(tmp_path, source=source, prompt="{quest}")
    with pytest.raises(DataError, match="to learn from and 0 to measure on"):
        read(tmp_path, source=source, prompt="{question}", validation_fraction=1e-9)


def test_the_first_held_out_prompts_stand_for_all(tmp_path: Path) -> None:
    """A run looks at `eval_prompts` of them; a file sorted by subject would give it those of a few subjects."""
    rows = [{"question": f"{subject}: what is {n}?", "answer": "it"} for subject in "abcdefghij" for n in range(60)]
    source = records(tmp_path / "sorted.jsonl", rows)
    drawn, _ = read(tmp_path, source=source, validation_fraction=0.3, **ASKED)
    given, _ = read(tmp_path, source=questions(tmp_path / "q.jsonl", range(9)), held_out=source, **ASKED)
    for prompts in (drawn, given):
        subjects = Counter(prompt.text.split(":")[1][1] for prompt in prompts.held_out[:64])
        assert len(subjects) == 10
        assert max(subjects.values()) < 20
