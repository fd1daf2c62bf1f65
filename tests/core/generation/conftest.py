"""A tiny tokenizer and a tiny model, made once."""

import pytest
from sharp_models import sharp_model

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import BytePair, Tokenizer

TEXT = "The sea was calm that night, and the naïve captain — an old man — said: “the sea is never calm”. " * 20


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return BytePair(vocab_size=300).build([TEXT])


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> DreamLM:
    return sharp_model(tokenizer.vocab_size)
