"""Preference pairs out of records: what becomes of them, and on which side of the split."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.rl.pair import Pair
from dreamlm.data_sources.pairs import PairData, Pairs, _apart, read_pairs
from dreamlm.data_sources.sources.source import SourceContext, SourceReport

RECORDS = [{"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(60)]


def read(folder: Path, records: list[dict[str, Any]], **options: Any) -> tuple[Pairs, SourceReport]:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    config = PairData.model_validate({"source": {"type": "jsonl", "paths": str(path)}, **options})
    report = SourceReport("pairs")
    return read_pairs(config, SourceContext(folder, folder / "cache"), report), report


def every(pairs: Pairs) -> set[Pair]:
    return {*pairs.train, *pairs.held_out}


def test_every_record_is_a_pair_on_one_side(tmp_path: Path) -> None:
    pairs, report = read(tmp_path, RECORDS)
    assert every(pairs) == {Pair(r["prompt"], r["chosen"], r["rejected"]) for r in RECORDS}
    assert (len(pairs.train) + len(pairs.held_out), report.drops) == (60, {})
    assert 3 <= len(pairs.held_out) <= 24


def test_a_prompt_is_never_on_both_sides(tmp_path: Path) -> None:
    several = [{**record, "chosen": f"{record['chosen']} {n}"} for record in RECORDS for n in range(4)]
    pairs, _ = read(tmp_path, several, validation_fraction=0.5)
    assert len(every(pairs)) == 240
    assert not {pair.prompt for pair in pairs.train} & {pair.prompt for pair in pairs.held_out}


def test_pairs_without_a_prompt_are_split_one_by_one(tmp_path: Path) -> None:
    pairs, _ = read(tmp_path, RECORDS, prompt="", validation_fraction=0.5)
    assert {pair.prompt for pair in every(pairs)} == {""}
    assert min(len(pairs.train), len(pairs.held_out)) >= 15


def test_who_turns_a_label_round_does_not_move_the_pair(tmp_path: Path) -> None:
    turned = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in RECORDS]
    one, other = (read(tmp_path, records, prompt="")[0] for records in (RECORDS, turned))
    assert {pair.chosen for pair in one.held_out} == {pair.rejected for pair in other.held_out}
    for ours, theirs in zip(one.train, other.train, strict=True):
        assert ours.chosen_is_first is not theirs.chosen_is_first


def test_ties_empty_answers_and_repetitions_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [
        {"prompt": "p", "chosen": "same", "rejected": "same \n"},
        {"prompt": "p", "chosen": "some", "rejected": ""},
        {"prompt": "p", "chosen": None, "rejected": "some"},
        {"prompt": "p", "chosen": "a ␞ b", "rejected": "some"},
        RECORDS[3],
    ]
    pairs, report = read(tmp_path, [*RECORDS, *bad])
    assert len(every(pairs)) == 60
    assert report.drops == {
        "pair: both answers are the same": 1,
        "record: field rejected is empty": 1,
        "record: field chosen is null": 1,
        "record: holds ␞": 1,
        "pair: repeated": 1,
    }


def test_an_answer_inside_a_field_may_be_empty_too(tmp_path: Path) -> None:
    records = [{"q": f"why {n}", "best": ["so"], "worst": ["no" if n else " "]} for n in range(20)]
    pairs, report = read(tmp_path, records, prompt="{q}", chosen="{best[0]}", rejected="{worst[0]}")
    assert (len(every(pairs)), report.drops) == (19, {"record: field worst[0] is empty": 1})


def test_answers_that_are_lists_of_messages_are_no_text(tmp_path: Path) -> None:
    records = [{**one, "chosen": [{"role": "user", "content": one["chosen"]}]} for one in RECORDS]
    with pytest.raises(DataError, match=r"record: field chosen is no text but a list"):
        read(tmp_path, records)


def test_space_at_the_end_tells_nothing_about_the_label(tmp_path: Path) -> None:
    records = [{**r, "chosen": f"{r['chosen']} \n\n", "rejected": f"{r['rejected']}\t\n"} for r in RECORDS]
    assert every(read(tmp_path, records)[0]) == every(read(tmp_path, RECORDS)[0])


def test_templates_make_prompt_and_answers(tmp_path: Path) -> None:
    records = [{"q": f"why {n}", "answers": {"best": "so", "worst": "no"}} for n in range(20)]
    pairs, _ = read(tmp_path, records, prompt="Q: {q}\nA:", chosen=" {answers[best]}", rejected=" {answers[worst]}")
    assert Pair("Q: why 7\nA:", " so", " no") in every(pairs)


def test_a_dialogue_has_its_common_beginning_as_prompt(tmp_path: Path) -> None:
    records = [
        {
            "chosen": f"\n\nHuman: hello {n}\n\nAssistant: what can I do?",
            "rejected": f"\n\nHuman: hello {n}\n\nAssistant: what?",
        }
        for n in range(20)
    ]
    pairs, _ = read(tmp_path, records, prompt=None)
    assert Pair("Human: hello 3\n\n", "Assistant: what can I do?", "Assistant: what?") in every(pairs)


@given(st.text("ab\n", max_size=12), st.text("ab\n", max_size=8), st.text("ab\n", max_size=8))
def test_prompt_and_answers_of_a_dialogue_make_up_the_dialogue(begin: str, chosen: str, rejected: str) -> None:
    pair = _apart(begin + chosen, begin + rejected)
    assert pair.prompt + pair.chosen == (begin + chosen).strip()
    assert pair.prompt + pair.rejected == (begin + rejected).strip()
    assert pair.prompt == "" or pair.prompt.endswith("\n")


def test_the_fingerprint_knows_texts_and_split_but_no_paths(tmp_path: Path) -> None:
    prints = []
    for name, records, options in [
        ("a", RECORDS, {}),
        ("b", RECORDS, {}),
        ("c", RECORDS[1:], {}),
        ("d", RECORDS, {"validation_fraction": 0.5}),
        ("e", RECORDS, {"chosen": "{chosen}!"}),
    ]:
        (tmp_path / name).mkdir()
        prints.append(read(tmp_path / name, records, **options)[0].fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_parquet_and_csv_are_read_alike(tmp_path: Path) -> None:
    expected = every(read(tmp_path, RECORDS)[0])
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "pairs.parquet")
    lines = ["prompt,chosen,rejected", *[f"{r['prompt']},{r['chosen']},{r['rejected']}" for r in RECORDS]]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    for source in (
        {"type": "parquet", "paths": "pairs.parquet"},
        {"type": "hf", "dataset": "csv", "data_files": str(tmp_path / "pairs.csv")},
    ):
        config = PairData.model_validate({"source": source})
        assert every(read_pairs(config, SourceContext(tmp_path, tmp_path), SourceReport("x"))) == expected


def test_a_field_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="no field 'preferred'"):
        read(tmp_path, RECORDS, chosen="{preferred}")


def test_a_side_without_pairs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)of 1 preference pairs .*validation_fraction"):
        read(tmp_path, RECORDS[:1])


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"source": {"type": "text", "paths": "a.txt"}}, "has none"),
        ({"source": "python_docs"}, "has none"),
        ({"source": {"type": "jsonl", "paths": "a", "format": "{x}"}}, "leave out fields and format"),
        ({"source": {"type": "jsonl", "paths": "a"}, "chosen": "yes"}, "chosen must name a field"),
        ({"source": {"type": "jsonl", "paths": "a"}, "prompt": "{"}, "expected '}'|Single"),
        ({"source": {"type": "jsonl", "paths": "a"}, "prompt": "␞{q}"}, "must not hold"),
        ({"source": {"type": "jsonl", "paths": "a"}, "validation_fraction": 0.0}, "greater than 0"),
    ],
)
def test_what_cannot_be_read_as_pairs_is_refused_at_once(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PairData.model_validate(values)
