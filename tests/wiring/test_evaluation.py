"""Which corpus an evaluation measures on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import Workplace, write_text

from dreamlm.core.errors import UserMistake
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.data_sources.progress import Silence
from dreamlm.wiring.corpora import prepare_corpus
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.loading import load
from dreamlm.wiring.places import corpus_folder


def test_a_corpus_that_is_no_longer_the_models_is_measured_on_only_when_named(
    place: Workplace, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    folder = corpus_folder(place.preset())
    tokenizer = Tokenizer.load(folder)
    measured = evaluate(EvaluationRequest(run), lambda doing, done, total: None)
    write_text(place.folder / "text.jsonl", documents=150, seed=1)
    monkeypatch.setattr(Tokenizer, "train", lambda config, texts: tokenizer)  # as a pretrained one would be
    prepare_corpus(place.preset(), Silence(), workers=1)
    kept = evaluate(EvaluationRequest(run), lambda doing, done, total: None)
    assert kept.perplexity.cross_entropy == measured.perplexity.cross_entropy
    shutil.rmtree(corpus_folder(place.preset(), str(load(run).state.corpus)))
    with pytest.raises(UserMistake, match="not the one that the model was trained on") as caught:
        evaluate(EvaluationRequest(run), lambda doing, done, total: None)
    assert f"--corpus {folder}" in caught.value.hint
    again = evaluate(EvaluationRequest(run, corpus=folder), lambda doing, done, total: None)
    assert again.perplexity.cross_entropy != measured.perplexity.cross_entropy
