"""The feed-forward layers a block can have: the typed union is the registry."""

from typing import Annotated

from pydantic import Field

from dreamlm.core.config import choice
from dreamlm.core.nn.feedforward.gelu import GELU
from dreamlm.core.nn.feedforward.learnable import Learnable
from dreamlm.core.nn.feedforward.moe import MixtureOfExperts
from dreamlm.core.nn.feedforward.relu2 import ReLU2
from dreamlm.core.nn.feedforward.swiglu import SwiGLU

FeedForwardConfig = Annotated[
    GELU.Config | Learnable.Config | MixtureOfExperts.Config | ReLU2.Config | SwiGLU.Config,
    Field(discriminator="type"),
    choice("swiglu"),
]
