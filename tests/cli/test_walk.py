"""The main job through the command line, on a few kilobytes of text: prepare, train, eval, generate."""

import errno
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

from dreamlm.cli.app import run as run_command

PRESET = {
    "name": "walk",
    "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 16},
    "tokenizer": {"type": "bpe", "vocab_size": 300},
    "data": {"sources": [{"type": "jsonl", "paths": "fables.jsonl"}], "validation_fraction": 0.1, "min_text_length": 1},
    "train": {"train_tokens": 1000, "per_gpu_batch_size": 8, "eval_tokens": 500, "precision": "fp32"},
    "generate": {"max_new_tokens": 8},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a text, a preset and, once trained, a run."""
    folder = tmp_path_factory.mktemp("walk")
    fables = [f"The {animal} met a {other}. It said: good day, {other}!" for animal in ANIMALS for other in ANIMALS]
    (folder / "fables.txt").write_text("\n\n".join(fables))
    (folder / "fables.jsonl").write_text("\n".join(json.dumps({"text": fable}) for fable in fables))
    (folder / "walk.json").write_text(json.dumps(PRESET))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        assert run_command(["train", "--preset", "walk.json"]) == 0
        yield folder


ANIMALS = ("fox", "crow", "lion", "mouse", "hare", "tortoise", "wolf", "crane", "dog", "ox", "ant", "dove")


def test_training_again_says_that_it_is_finished(cli: Any, place: Path) -> None:
    outcome = cli("train", "--preset", "walk.json")
    assert outcome.code == 0
    assert outcome.out.startswith("already finished: step ")
    assert "ask for more with train.train_tokens" in outcome.err


def test_a_run_goes_on_by_its_folder_alone_when_more_is_asked(cli: Any, place: Path) -> None:
    outcome = cli("train", "--run", "runs/walk", "--set", "train.train_tokens=1500", "--json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 0
    assert (events[0]["event"], events[0]["resumed"]) == ("start", True)
    assert (events[-1]["event"], events[-1]["reason"]) == ("end", "finished")
    assert next(event["step"] for event in events if event["event"] == "step") == events[0]["step"] + 1


def test_a_resume_with_other_settings_is_refused_by_name(cli: Any, place: Path) -> None:
    outcome = cli("train", "--preset", "walk.json", "--seed", "7")
    assert (outcome.code, outcome.out) == (2, "")
    assert "train.seed: the run has 0, the request 7" in outcome.err


def test_a_run_that_is_nowhere_asks_for_a_preset(cli: Any, place: Path) -> None:
    outcome = cli("eval", "--run", "runs/absent")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: this folder does not exist\nat: runs/absent\n")


@pytest.mark.parametrize(
    ("command", "doing"),
    [(("eval",), "measuring the model"), (("generate", "The fox"), "writing texts")],
)
def test_memory_that_does_not_suffice_is_said_with_what_helps(
    cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], doing: str
) -> None:
    def exhausted(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("dreamlm.core.nn.decoder.DreamLM.segments", exhausted)
    outcome = cli(*command, "--run", "runs/walk")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"error: out of memory while {doing}\nhelp: lower --batch-size")


def test_a_mistyped_run_does_not_start_another_model(cli: Any, place: Path) -> None:
    outcome = cli("train", "--run", "runs/absent")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: there is no run to continue here\nat: runs/absent\nhelp: start one with --preset NAME\n"
    )


def test_prepare_explains_and_summarises(cli: Any, place: Path) -> None:
    assert cli("prepare", "--preset", "walk.json", "--explain").out == (
        "the corpus fits this preset and will be used as it is\n"
    )
    summary = json.loads(cli("prepare", "--preset", "walk.json", "--json").out)
    assert summary["splits"]["train"]["documents"] > 0
    table = cli("prepare", "--preset", "walk.json").out
    assert table.startswith(f"corpus {summary['folder']}")


def test_every_source_failing_exits_1_with_each_reason(cli: Any, place: Path) -> None:
    outcome = cli("prepare", "--preset", "walk.json", "--set", "data.sources.0.paths=absent.txt")
    assert (outcome.code, outcome.out) == (1, "")
    assert "every data source failed, nothing was written" in outcome.err
    assert "absent.txt" in outcome.err


def test_eval_is_the_same_for_any_batch_size(cli: Any, place: Path) -> None:
    reports = [json.loads(cli("eval", "--run", "runs/walk", "--batch-size", size, "--json").out) for size in ("1", "7")]
    assert reports[0]["cross_entropy"] == pytest.approx(reports[1]["cross_entropy"], rel=1e-6)
    shown = cli("eval", "--run", "runs/walk", "--text", "fables.txt", "--out", "report")
    assert shown.out.splitlines()[0].split() == ["measure", "value", "95%", "interval", "unit"]
    assert json.loads(Path("report/report.json").read_text())["tokens"] > 100
    assert Path("report/report.png").read_bytes().startswith(b"\x89PNG")
    assert "<td>cross-entropy</td>" in Path("report/report.html").read_text()


def test_diversity_is_a_table_a_strip_of_the_page_and_a_section_of_the_json(cli: Any, place: Path) -> None:
    asked = ("eval", "--run", "runs/walk", "--diversity", "6", "--set", "eval.diversity.words=4")
    shown = cli(*asked, "--out", "diverse")
    lines = shown.out.splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("generation diversity"))) :]
    names = ["distinct-1", "distinct-2", "distinct-3", "self-BLEU", "entropy", "repetition", "seen 8-grams"]
    assert [line.split("  ")[0] for line in table[1:8]] == names
    assert table[-1].startswith("on 6 texts of ")
    assert "note: log-likelihood is left out: name the checkpoint" in shown.err
    assert Path("diverse/report.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads(Path("diverse/report.json").read_text())
    again = json.loads(cli(*asked, "--batch-size", "1", "--reference", "runs/walk", "--json").out)
    likelihood = again["diversity"]["figures"].pop("log_likelihood")
    assert likelihood["value"] < 0
    assert again["diversity"]["figures"] == written["diversity"]["figures"]
    assert again["diversity"]["written"] == written["diversity"]["written"]
    assert again["perplexity"] == pytest.approx(written["perplexity"], rel=1e-6)


def test_thoughts_are_a_table_a_picture_and_a_part_of_both_pages(cli: Any, place: Path) -> None:
    shape = ("model.segment_length=4", 'model.modules=[{"type": "thought_stack", "thought_dims": [2, 2, 2]}]')
    sets = [word for one in shape for word in ("--set", one)]
    assert cli("train", "--preset", "walk.json", "--run", "thinking", *sets).code == 0
    shown = cli("eval", "--run", "thinking", "--thoughts", "--diversity", "4", "--out", "thoughtful")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert any(line.startswith("effective dimensionality  ") for line in lines)
    assert any(line.startswith("shuffled - true  ") for line in lines)
    written = sorted(path.name for path in Path("thoughtful").iterdir())
    assert written == ["report.html", "report.json", "report.png", "thoughts_evolution.png"]
    figures = json.loads(Path("thoughtful/report.json").read_text())["thoughts"]["figures"]
    assert figures["another_s_true"]["unit"] == "nats per token that reads thoughts"
    page = Path("thoughtful/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<h2>Generation diversity</h2>" in page


def test_thoughts_of_a_model_without_any_are_the_users_mistake(cli: Any, place: Path) -> None:
    outcome = cli("eval", "--run", "runs/walk", "--thoughts")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: --thoughts: this model has no stack of thoughts\nat: runs/walk/")


def test_dreams_are_a_table_and_a_part_of_the_page(cli: Any, place: Path) -> None:
    dreaming = {"type": "dreaming", "num_dream_sequences": 2, "dream_length": 2, "expert_num_layers": 1}
    shape = ("model.segment_length=4", f"model.modules={json.dumps([dreaming])}")
    sets = [word for one in shape for word in ("--set", one)]
    assert cli("train", "--preset", "walk.json", "--run", "dreaming", *sets).code == 0
    shown = cli("eval", "--run", "dreaming", "--dreams", "--out", "dreamt")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert any(line.startswith("mutual information, first expert; dream  ") for line in lines)
    assert any(line.startswith("reversed - own  ") for line in lines)
    written = json.loads(Path("dreamt/report.json").read_text())["dreams"]
    assert written["figures"]["zeroed_own"]["unit"] == "nats per token that reads dreams"
    assert "<h2>Dreams</h2>" in Path("dreamt/report.html").read_text()
    again = json.loads(cli("eval", "--run", "dreaming", "--dreams", "--json").out)["dreams"]
    assert again == written


def test_dreams_of_a_model_without_any_are_the_users_mistake(cli: Any, place: Path) -> None:
    outcome = cli("eval", "--run", "runs/walk", "--dreams")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: --dreams: this model does not dream\nat: runs/walk/")


def test_prompts_and_settings_of_the_texts_are_the_users(cli: Any, place: Path) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "The fox"}\n{"prompt": "A dog"}\n')
    asked = ("eval", "--run", "runs/walk", "--json", "--diversity", "2", "--prompts", "prompts.jsonl")
    found = json.loads(cli(*asked, "--set", "generate.greedy=true", "--seed", "5").out)["diversity"]
    assert [text["prompt"] for text in found["written"]] == ["The fox", "A dog"]
    assert (found["generate"]["greedy"], found["generate"]["seed"]) == (True, 5)


@pytest.mark.parametrize("option", ["--prompts", "--reference"])
def test_an_option_of_diversity_says_so_when_it_was_not_asked_for(cli: Any, place: Path, option: str) -> None:
    outcome = cli("eval", "--run", "runs/walk", option, "there")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"error: {option} is for --diversity\nhelp: say how many texts to write: --diversity 64 {option} there\n"
    )


def test_more_texts_than_a_list_holds_are_refused(cli: Any, place: Path) -> None:
    outcome = cli("eval", "--run", "runs/walk", "--diversity", str(10**20))
    assert (outcome.code, outcome.out) == (2, "")
    assert "'--diversity'" in outcome.err


def test_a_report_that_cannot_be_written_does_not_cost_the_measurement(
    cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = cli("eval", "--run", "runs/walk").out
    monkeypatch.setattr("dreamlm.core.evaluation.plots.plot_report", full)
    outcome = cli("eval", "--run", "runs/walk", "--out", "reports")
    assert (outcome.code, outcome.out) == (1, expected)
    assert outcome.err.endswith(
        "error: the report could not be written: No space left on device\nat: reports\nhelp: --json prints it as well\n"
    )


def test_generate_answers_each_line_of_stdin_with_a_line_of_json(
    cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "The fox"}\n{"prompt": ""}\n'))
    outcome = cli("generate", "--run", "runs/walk", "--json", "--samples", "2", "--batch-size", "3")
    texts = [json.loads(line) for line in outcome.out.splitlines()]
    assert [text["prompt"] for text in texts] == ["The fox", "The fox", "", ""]
    assert texts[0]["text"] != texts[1]["text"]
    assert all(len(text["token_ids"]) <= 8 for text in texts)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "The fox"}\n{"prompt": ""}\n'))
    at_once = cli("generate", "--run", "runs/walk", "--json", "--samples", "2").out
    assert [json.loads(line)["text"] for line in at_once.splitlines()] == [text["text"] for text in texts]


def test_generate_reports_bad_options_like_a_preset(cli: Any, place: Path) -> None:
    outcome = cli("generate", "--run", "runs/walk", "--top-p", "2", "--temperature", "-1", "x")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: preset runs/walk/checkpoints/lm_current has 2 mistakes:\n"
        "  generate.temperature: must be at least 0.0, not -1.0 (--temperature -1.0)\n"
        "  generate.top_p: must be at most 1.0, not 2.0 (--top-p 2.0)\n"
        "help: dreamlm presets schema prints every key\n"
    )


def test_a_prompt_that_is_cut_is_told_on_a_terminal_too(cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    outcome = cli("generate", "--run", "runs/walk", "The fox met a crow. " * 5)
    assert outcome.code == 0
    assert screen.getvalue().startswith("The fox met a crow. ")
    assert re.fullmatch(r"warning: the model could not read the prompt's first \d+ tokens\n", outcome.err)


def test_a_text_is_measured_whole_and_in_the_form_that_training_gives_it(cli: Any, place: Path) -> None:
    (place / "dos.txt").write_bytes("\ufeffThe fox met a crow.\r\nIt said: good day!\u2028".encode())
    (place / "plain.txt").write_bytes(b"The fox met a crow.\nIt said: good day!\n")
    dos, plain = (cli("eval", "--run", "runs/walk", "--text", name) for name in ("dos.txt", "plain.txt"))
    assert (dos.code, plain.code, dos.out) == (0, 0, plain.out)
    assert "39 bytes" in plain.out
    said = "dos.txt: every line is measured with a plain line feed at its end, as in training\n"
    assert (said in dos.err, said in plain.err) == (True, False)
    refused = cli("eval", "--run", "runs/walk", "--text", "plain.txt", "--max-tokens", "5")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: a text is measured whole: --max-tokens takes a sample of a corpus's held-out")


def test_a_model_must_be_named(cli: Any, place: Path) -> None:
    outcome = cli("generate", "x")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: which model?\nvalid: runs/walk\n"
        "help: name a run with --run DIR, or one snapshot with --checkpoint DIR\n"
    )


def test_an_exported_file_is_imported_as_a_run_that_writes(cli: Any, place: Path) -> None:
    assert cli("ckpt", "export", "--to", "pth", "--run", "runs/walk", "walk.pth").code == 0
    outcome = cli("ckpt", "import", "walk.pth", "--run", "runs/imported")
    assert (outcome.code, outcome.out) == (0, "runs/imported/checkpoints/lm_current\n")
    written = [cli("generate", "--run", run, "The fox", "--greedy").out for run in ("runs/walk", "runs/imported")]
    assert written[0] == written[1] != ""


def test_a_run_starts_from_another_and_says_so_in_its_preset(cli: Any, place: Path) -> None:
    preset = {key: value for key, value in PRESET.items() if key not in ("model", "tokenizer")}
    (place / "second.json").write_text(json.dumps({**preset, "name": "second", "model": {"init_from": "runs/walk"}}))
    prepared = json.loads(cli("prepare", "--preset", "second.json", "--json").out)
    first = json.loads(cli("prepare", "--preset", "walk.json", "--json").out)
    assert (prepared["folder"] != first["folder"], prepared["tokenizer"]) == (True, first["tokenizer"])
    assert cli("train", "--preset", "second.json").code == 0
    kept = json.loads((place / "runs" / "second" / "preset.json").read_text())
    assert (kept["model"]["init_from"], kept["model"]["hidden_size"]) == (str(place / "runs" / "walk"), 16)
