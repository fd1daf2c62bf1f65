"""What an evaluation found: figures per real token, unsmoothed, without auxiliary losses."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dreamlm.core.errors import DreamLMError
from dreamlm.core.evaluation.bootstrap import Interval

LARGEST_EXPONENT = 709.0


@dataclass(frozen=True)
class Score:
    """Loss over some windows; the intervals are None below 5 windows, or documents where those are measured."""

    windows: int
    tokens: int
    """Real targets predicted."""
    cross_entropy: float
    """Nats per token."""
    cross_entropy_interval: Interval | None
    perplexity: float
    """exp(cross_entropy)."""
    perplexity_interval: Interval | None


@dataclass(frozen=True)
class SourceScore(Score):
    """Loss over the windows of one source."""

    source: str


@dataclass(frozen=True)
class PerplexityReport(Score):
    """Loss over all windows, and what it is made of.

    Raises: DreamLMError when its own figures contradict one another; such a report would be a bug of ours.
    """

    bits_per_byte: float
    """Bits of loss per byte of UTF-8 text: the figure that compares models with different tokenizers."""
    bits_per_byte_interval: Interval | None
    utf8_bytes: int
    """Bytes of text that the targets stand for."""
    sources: tuple[SourceScore, ...]
    position_cross_entropy: tuple[float, ...]
    """Nats per token at each place within the window: what the model gains from context; NaN where it has none."""
    confidence: float
    """Of every interval: percentile bootstrap over windows, or documents where those are measured."""
    resamples: int
    seed: int
    padding: float
    """Share of the places computed that were padding."""
    parity_error: float
    """Largest difference in nats of one token to a plain cross-entropy over whole logits, on the first window."""
    is_bound: bool = False
    """Whether the losses estimate an upper bound, as a diffusion model's do, and are not exact."""
    monte_carlo_error: float = 0.0
    """Standard error of `cross_entropy` as an estimate of that bound, at most: the times of the samples are spread more
    evenly than chance would spread them, which only lowers it. 0 where the loss is exact."""

    def __post_init__(self) -> None:
        """Perplexity two ways: exp of the overall loss, and the geometric mean of the sources' perplexities."""
        log_perplexity = sum(source.tokens * math.log(source.perplexity) for source in self.sources) / self.tokens
        for other in (self.cross_entropy, log_perplexity):
            overflows = math.isinf(self.perplexity) and other >= LARGEST_EXPONENT
            if not overflows and not math.isclose(math.log(self.perplexity), other, rel_tol=1e-9, abs_tol=1e-9):
                raise DreamLMError(
                    f"perplexity {self.perplexity} and cross-entropy {other} nats are not of the same model",
                    hint="this is a bug of dreamlm: please report it with the report's JSON",
                )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; what is too large for a double is null."""
        converted: dict[str, Any] = _json_value(asdict(self))
        return converted


def perplexity_of(cross_entropy: float) -> float:
    """exp, infinite where a double ends."""
    return math.exp(cross_entropy) if cross_entropy < LARGEST_EXPONENT else math.inf


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
