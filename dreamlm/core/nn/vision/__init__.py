"""What a model sees pictures with: the typed union is the registry."""

from typing import Annotated

from pydantic import Field

from dreamlm.core.config import choice
from dreamlm.core.nn.vision.clip import Clip
from dreamlm.core.nn.vision.lite import Lite
from dreamlm.core.nn.vision.vit import Vit

AnyVision = Annotated[Clip.Config | Lite.Config | Vit.Config, Field(discriminator="type"), choice("vit")]
