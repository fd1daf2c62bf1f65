"""The LM evaluation harness on a trained model: what it measures is what dreamlm measures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dreamlm
from dreamlm.checkpoints.convert.llama import export
from dreamlm.wiring.loading import Loaded

TASK = """
task: tiny_local_task
dataset_path: json
dataset_kwargs:
  data_files: {{test: {questions}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
QUESTIONS = [
    {"question": "the cat saw", "choices": ["the dog", "a a a"], "label": 0},
    {"question": "dog", "choices": ["cat", "saw the cat the"], "label": 1},
]
WITH_DREAMLM = ["-c", "import dreamlm; from lm_eval.__main__ import cli_evaluate; cli_evaluate()"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["exported", "snapshot"])
def test_the_harness_gives_dreamlms_log_likelihoods(trained: Callable[..., Path], tmp_path: Path, form: str) -> None:
    pytest.importorskip("lm_eval")
    loaded = dreamlm.load(trained(), device="cpu")
    folder = loaded.folder
    if form == "exported":
        folder = Path(export(loaded.folder, tmp_path / "exported").folder)
    (tmp_path / "tasks").mkdir()
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)))
    (tmp_path / "tasks" / "tiny.yaml").write_text(TASK.format(questions=questions))
    program = ["-m", "lm_eval"] if form == "exported" else WITH_DREAMLM
    options = {
        "--model": "hf",
        "--model_args": f"pretrained={folder}",
        "--tasks": "tiny_local_task",
        "--include_path": str(tmp_path / "tasks"),
        "--device": "cpu",
        "--output_path": str(tmp_path / "results"),
    }
    words = [word for option in options.items() for word in option]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, *program, *words, "--log_samples"],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for path in tmp_path.rglob("samples_*.jsonl") for line in path.read_text().splitlines()]
    measured = [float(response[0][0]) for sample in samples for response in sample["resps"]]
    expected = [
        log_likelihood(loaded, question["question"], f" {choice}")
        for question in QUESTIONS
        for choice in question["choices"]
    ]
    assert measured == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def log_likelihood(loaded: Loaded, before: str, after: str) -> float:
    """Nats of a text behind another, at the opening of a document."""
    opening = [loaded.tokenizer.end_of_document_id]
    known = opening + loaded.tokenizer.encode(before)
    tokens = torch.tensor([opening + loaded.tokenizer.encode(before + after)])
    model = loaded.model
    likely: Tensor = model.logits(model(tokens, torch.zeros_like(tokens), model.start(1)).hidden).log_softmax(-1)
    chosen = likely[0, :-1].gather(1, tokens[0, 1:, None])
    return chosen[len(known) - 1 :].sum().item()
