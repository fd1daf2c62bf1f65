"""Makes small training runs."""

from collections.abc import Callable

import pytest
import torch
from small_runs import Run
from stream_of_text import TextStream


@pytest.fixture
def run() -> Callable[..., Run]:
    torch.set_num_threads(1)
    return lambda stream=None, model=None, **options: Run(options, model or {}, stream or TextStream())
