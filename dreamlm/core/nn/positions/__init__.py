"""How tokens know where they stand: the typed union is the registry."""

from typing import Annotated

from pydantic import Field

from dreamlm.core.config import choice
from dreamlm.core.nn.positions.alibi import ALiBi
from dreamlm.core.nn.positions.learned import Learned
from dreamlm.core.nn.positions.none import NoPositions
from dreamlm.core.nn.positions.rotary import Rotary

PositionsConfig = Annotated[
    ALiBi.Config | Learned.Config | NoPositions.Config | Rotary.Config,
    Field(discriminator="type"),
    choice("rope"),
]
