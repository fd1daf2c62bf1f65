"""How the thoughts of one text evolve from segment to segment, in numbers; `thought_picture.py` draws them.

Shapes: N thoughts of the text, X numbers of a thought, M thoughts of a stack.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.thought_metrics import changes
from dreamlm.core.evaluation.trajectory import Trajectory, Values, norms


@dataclass(frozen=True)
class Evolution:
    """What a text leaves behind, segment after segment."""

    opening: str
    """How the text begins, for people to know it by."""
    segment_length: int
    """Tokens of a segment."""
    slot_norm_MN: npt.NDArray[np.float64]
    """Norm of each thought of the stack after each segment, the newest first; NaN where there is no thought yet."""
    cosine_N: Values
    """Of each thought and the one before; NaN for the first, and beside a zero."""
    projection_N2: npt.NDArray[np.float64]
    """Each thought on the first two principal directions of the text's thoughts."""
    explained_2: Values
    """Share of the thoughts' variance along each of the two; 0 where they do not differ."""
    change_per_token_N: Values
    """||x_n - x_(n-1)|| by the tokens of a segment; NaN for the first."""

    @classmethod
    def of(cls, thoughts_NX: Trajectory, stack_size: int, segment_length: int, opening: str) -> "Evolution":
        """The evolution of a text with at least one thought."""
        length_N = norms(thoughts_NX)
        slot_norm_MN = np.full((stack_size, len(length_N)), np.nan)
        for age in range(min(stack_size, len(length_N))):
            slot_norm_MN[age, age:] = length_N[: len(length_N) - age]
        size_N = length_N[:-1] * length_N[1:]
        product_N = (thoughts_NX[:-1] * thoughts_NX[1:]).sum(axis=1)
        cosine_N = np.divide(product_N, size_N, out=np.full(len(size_N), np.nan), where=size_N > 0)
        projection_N2, explained_2 = principal_plane(thoughts_NX)
        return cls(
            opening,
            segment_length,
            slot_norm_MN,
            np.concatenate([[np.nan], cosine_N]),
            projection_N2,
            explained_2,
            np.concatenate([[np.nan], changes(thoughts_NX) / segment_length]),
        )

    @property
    def segments(self) -> int:
        return len(self.cosine_N)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; what there is not is null."""
        return {
            "opening": self.opening,
            "segment_length": self.segment_length,
            "slot_norms": [_numbers(slot_N) for slot_N in self.slot_norm_MN],
            "consecutive_cosine": _numbers(self.cosine_N),
            "projection": self.projection_N2.tolist(),
            "projection_explains": self.explained_2.tolist(),
            "change_per_token": _numbers(self.change_per_token_N),
        }


def principal_plane(thoughts_NX: Trajectory) -> tuple[npt.NDArray[np.float64], Values]:
    """Each thought on the two directions along which all differ most, and the share of variance along each.

    By a singular value decomposition of the thoughts without their mean. A direction's sign means nothing; it is chosen
    so that its largest number is positive, so that the same thoughts always have the same picture.
    """
    centred_NX = thoughts_NX - thoughts_NX.mean(axis=0)
    projection_N2, explained_2 = np.zeros((len(centred_NX), 2)), np.zeros(2)
    _, size_K, direction_KX = np.linalg.svd(centred_NX, full_matrices=False)
    variance = float((size_K**2).sum())
    if variance <= 1e-12 * max(1.0, float((thoughts_NX**2).sum())):
        return projection_N2, explained_2
    for axis, direction_X in enumerate(direction_KX[:2]):
        sign = np.sign(direction_X[np.abs(direction_X).argmax()])
        projection_N2[:, axis] = centred_NX @ direction_X * sign
        explained_2[axis] = size_K[axis] ** 2 / variance
    return projection_N2, explained_2


def _numbers(values: Values) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
