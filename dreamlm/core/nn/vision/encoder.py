"""What turns pixels into features, and what every kind of eyes is told.

Shapes: I pictures of H x W pixels, N features of a picture, W their width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from dreamlm.core.config import ConfigModel
from dreamlm.core.types import ImageForm

CONTRASTIVE = "contrastive"
"""Name of the loss that tells which caption belongs to which picture."""
COLDEST, HOTTEST = 0.01, 1.0
"""Between which the learned temperature stays.  Source: Radford et al. 2021, section 2.5, for the lower one."""


class VisionEncoder(nn.Module, ABC):
    """Sees each picture by itself."""

    width: int
    """Of a feature."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """mean, std: of red, green and blue, on a scale from 0 to 1, by which pixels are normalised."""
        super().__init__()
        self._mean, self._std = tuple(mean), tuple(std)

    def forward(self, pixels_IHW: UInt8[Tensor, "I 3 H W"]) -> Float[Tensor, "I N W"]:
        """The features of every picture."""
        mean, std = (torch.tensor(one, device=pixels_IHW.device).view(3, 1, 1) for one in (self._mean, self._std))
        return self.features((pixels_IHW.float() / 255 - mean) / std)

    @abstractmethod
    def features(self, normal_IHW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I N W"]:
        """The same, of normalised pixels."""


class VisionConfig(ConfigModel, ABC):
    """Parent of every encoder's `Config`: how pictures become tokens, and what is learned from what is said of them."""

    image_size: int = 224
    """Pixels of a side, to which pictures are cut and scaled when the corpus is prepared."""
    num_prefix_tokens: int = Field(16, ge=1)
    """Places that a picture takes up before its text."""
    embedding_dropout: float = Field(0.15, ge=0.0, lt=1.0)
    """Of the vectors of pictures, and of captions where they are compared, in training."""
    token_mask_prob: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of these vectors that become a learned mask vector, in training."""
    use_contrastive_loss: bool = True
    """Learn to tell which caption belongs to which picture; `dreamlm eval --retrieval` needs it."""
    contrastive_temperature: float = Field(0.07, ge=COLDEST, le=HOTTEST)
    """Of the first step; learned from there."""
    contrastive_weight: float = Field(0.1, ge=0.0)
    """What a mean of the contrastive loss counts beside a mean of the cross-entropy."""

    @property
    def form(self) -> ImageForm:
        """What pictures are prepared for."""
        return ImageForm(self.image_size, self.num_prefix_tokens)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Full weight of the loss that the model learns to look by, by its name."""
        return {CONTRASTIVE: self.contrastive_weight} if self.use_contrastive_loss else {}

    @property
    def depth(self) -> int:
        """Layers that write to one residual stream."""
        return 1

    def check(self, seq_length: int) -> None:
        """Raises: ValueError when the encoder cannot have these sizes, or a window has no room behind a picture."""
        if self.num_prefix_tokens >= seq_length:
            raise ValueError(
                f"vision.num_prefix_tokens {self.num_prefix_tokens} must be below seq_length {seq_length}, "
                "or no text would see its picture"
            )
        self.check_sizes()

    def check_sizes(self) -> None:
        """Raises: ValueError when the encoder cannot have these sizes."""

    @abstractmethod
    def build_encoder(self) -> VisionEncoder:
        """An encoder whose matrices the caller draws by `initialise`."""
