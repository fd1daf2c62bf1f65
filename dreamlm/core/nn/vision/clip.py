"""The vision tower of a trained CLIP.

1. `Clip.Config.completed` reads what the tower is like, so that the run remembers it and needs its folder no more
2. `Clip` builds it, with random weights; `pretrained` gives those to begin with, once: a run that goes on has its own
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import UserMistake
from dreamlm.core.home import expanded
from dreamlm.core.hub import from_hub, quiet
from dreamlm.core.nn.vision.encoder import VisionConfig, VisionEncoder

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels of the original CLIP's training pictures, for a model whose folder does not say its own."""


class Architecture(ConfigModel):
    """What of the configuration of a tower decides what it computes, by the names of `transformers`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float


@final
class Clip(VisionEncoder):
    """All vectors of a CLIP's last layer, behind its final norm; one is of the whole picture, the others of patches.

    Source: Radford et al. 2021; the implementation is that of `transformers`.
    """

    class Config(VisionConfig):
        type: Literal["clip"] = "clip"
        path: str
        """A folder with a CLIP model or its vision tower, or a model id of the hub; read when a run begins."""
        frozen: bool = True
        """Leave its weights as they are; what brings its features to the decoder learns all the same."""
        architecture: Architecture | None = None
        """What the tower is like; a run fills this in, with `mean` and `std`, and does not need `path` again."""
        mean: tuple[float, float, float] = MEAN
        std: tuple[float, float, float] = STD

        def check_sizes(self) -> None:
            size = self.image_size if self.architecture is None else self.architecture.image_size
            if size != self.image_size:
                raise ValueError(f"vision.image_size {self.image_size} must be {size}, the pixels that this CLIP takes")

        def completed(self) -> "Clip.Config":
            """With the architecture that `path` has.

            Raises: UserMistake when there is no CLIP, or it takes pictures of another size than the one asked for.
            """
            if self.architecture is not None:
                return self
            tower = _architecture(self.path)
            if "image_size" in self.model_fields_set and self.image_size != tower.image_size:
                raise UserMistake(
                    f"this CLIP takes pictures of {tower.image_size} pixels, not of {self.image_size}",
                    where="model.vision.image_size",
                    hint="leave it out",
                )
            found = {"architecture": tower, "image_size": tower.image_size, **_preprocessing(self.path)}
            return Clip.Config.model_validate({**self.model_dump(), **found})

        def build_encoder(self) -> VisionEncoder:
            return Clip(self.completed())

    def __init__(self, config: Config) -> None:
        super().__init__(config.mean, config.std)
        from transformers import CLIPVisionConfig, CLIPVisionModel  # over a second of import time

        assert config.architecture is not None, "the architecture was not read"
        self.tower = CLIPVisionModel(CLIPVisionConfig(**config.architecture.model_dump()))
        self.width = config.architecture.hidden_size
        if config.frozen:
            self.tower.requires_grad_(False)

    def features(self, normal_IHW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I N W"]:
        features: Tensor = self.tower.post_layernorm(self.tower(normal_IHW).last_hidden_state)
        return features

    @torch.no_grad()
    def load(self, path: str) -> None:
        """Take over the weights of the CLIP at `path`, which the configuration was completed by.

        Raises: UserMistake when they cannot be read.
        """
        from transformers import CLIPVisionModel

        def read(local_files_only: bool) -> Any:
            with _no_bar():
                return CLIPVisionModel.from_pretrained(path, local_files_only=local_files_only, dtype=torch.float32)

        theirs = dict(_from(path, read).named_parameters())
        for name, parameter in self.tower.named_parameters():
            parameter.copy_(theirs[name])


@contextmanager
def _no_bar() -> Iterator[None]:
    """Let `transformers` read weights without a bar of its own, which would stand in the midst of a run's messages."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _architecture(path: str) -> Architecture:
    from transformers import CLIPVisionConfig

    def read(local_files_only: bool) -> Any:
        return CLIPVisionConfig.from_pretrained(path, local_files_only=local_files_only)

    found = _from(path, read)
    return Architecture.model_validate({name: getattr(found, name) for name in Architecture.model_fields})


def _preprocessing(path: str) -> Mapping[str, Any]:
    """Mean and deviation of pixels, where the model says its own."""
    from transformers.utils import cached_file

    def read(local_files_only: bool) -> Any:
        return cached_file(
            path,
            "preprocessor_config.json",
            local_files_only=local_files_only,
            _raise_exceptions_for_missing_entries=False,
        )

    file = _from(path, read)
    said = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    return {ours: said[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in said}


def _from(path: str, read: Any) -> Any:
    local = expanded(path)
    try:
        if local.is_dir():
            with quiet():
                return read(True)
        return from_hub(path, read)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserMistake(
            f"no CLIP could be read: {reason}",
            where=f"model.vision.path={path}",
            hint="give a folder on this machine, or a model id of the hub",
        ) from error
