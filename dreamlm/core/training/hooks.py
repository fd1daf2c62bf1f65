"""The named moments of a run, and who listens: logging, live lines and metrics hang here, never in the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

_OF_A_BOUND = ("is_bound", "monte_carlo_error")


@dataclass(frozen=True)
class StagePlace:
    """Where in its curriculum a run is."""

    name: str
    number: int
    """From 1."""
    of: int
    """How many stages there are."""
    last_step: int | None
    """The step that the stage ends with; None for the last one, which stays."""


@dataclass(frozen=True)
class RunStart:
    """What is known before the first step."""

    step: int
    planned_steps: int
    tokens: int
    train_tokens: int
    tokens_per_step: int
    parameters: int
    vocab_size: int
    precision: str
    device: str
    world_size: int
    resumed: bool
    stage: StagePlace | None = None
    """Of the curriculum, if there is one."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step. Losses are nats per real token."""

    step: int
    tokens: int
    """Real target tokens so far."""
    nll: float
    """Unsmoothed, without auxiliaries, on this step's training tokens."""
    objectives: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    applied: bool
    tokens_per_second: float
    mfu: float | None
    """Share of the measured matmul peak; None before it was measured."""
    seconds: float
    probes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Values that the model's parts show, by name, flat."""
    micro_rows: int | None = None
    """Windows of a micro-batch; None where training reads no windows."""
    length: int | None = None
    """Targets of a row: fewer than a window's where windows are cut."""
    loss_factors: Mapping[str, float] = field(default_factory=dict)
    """Share of its full weight that each loss had which begins late or grows, by name."""
    stage: StagePlace | None = None
    """Of the curriculum, if there is one."""


@dataclass(frozen=True)
class IterationReport:
    """One iteration of reinforcement learning: roll-outs, then updates. Means over answers or their tokens."""

    step: int
    """Iterations done."""
    tokens: int
    """Tokens of all answers so far."""
    reward: float
    """The mixed score as it was given, before it is normalised."""
    reward_deviation: float
    components: Mapping[str, float]
    """Mean of each reward component, by its public name."""
    policy_loss: float
    value_loss: float
    entropy: float
    """Nats per token."""
    approx_kl: float
    """How far the updates moved the policy, in nats per token."""
    clip_fraction: float
    kl: float
    """How far the policy was from the reference, in nats per token."""
    kl_coefficient: float
    explained_variance: float
    length: float
    """Tokens of an answer."""
    ended: float
    """Share of the answers that came to an end."""
    repetition: float
    """Share of 3-grams that an answer had before."""
    mismatch: float
    """Largest difference of a log-probability between the pass that drew and the pass that trains."""
    epochs: float
    """Passes over the answers; fewer than asked for when the policy moved too far."""
    gradient_norm: float
    learning_rate: float
    rollout_tokens_per_second: float
    update_tokens_per_second: float
    seconds: float


@dataclass(frozen=True)
class RewardReport:
    """What answers to held-out prompts earn."""

    step: int
    tokens: int
    reward: float
    reward_interval: tuple[float, float] | None
    """95 %, by Student's t over prompts; None below 5, and where all earn the same."""
    components: Mapping[str, float]
    kl: float
    best: bool


@dataclass(frozen=True)
class EvaluationReport:
    """Held-out measurement; `perplexity` and `bits_per_byte` follow from `nll`."""

    step: int
    tokens: int
    nll: float
    perplexity: float
    bits_per_byte: float
    sources: Mapping[str, float]
    """Nats per token of each source."""
    best: bool
    stage: StagePlace | None = None
    """That the model was in, if there is a curriculum."""
    is_bound: bool = False
    """Whether the losses estimate upper bounds, as a diffusion model's do, and are not exact."""
    monte_carlo_error: float = 0.0
    """Standard error of `nll` as an estimate of its bound."""


@dataclass(frozen=True)
class PreferenceMeasured:
    """How well a reward model predicts preferences that were held out."""

    step: int
    tokens: int
    pairs: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    above_chance: bool
    loss: float
    """Nats per pair."""
    calibration_error: float
    mean_margin: float
    mean_confidence: float
    best: bool


@dataclass(frozen=True)
class Sample:
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    step: int
    folder: str
    seconds: float


@dataclass(frozen=True)
class RunEnd:
    """`reason` is finished, already_finished, interrupted, paused or failed."""

    reason: str
    step: int
    tokens: int
    seconds: float
    nll: float | None
    validation_nll: float | None
    bits_per_byte: float | None
    reward: float | None = None
    """Of answers to held-out prompts, where that is what the run is about."""
    is_bound: bool = False
    """Whether the held-out figures estimate upper bounds."""


def figures(report: IterationReport | RewardReport) -> dict[str, Any]:
    """The report's figures, those of the reward's components among them under their public names."""
    values = asdict(report)
    components: dict[str, Any] = values.pop("components")
    return values | components


def recorded(report: EvaluationReport | RunEnd) -> dict[str, Any]:
    """The report as it is written down: that figures are a bound, and its error, only where they are."""
    values = asdict(report)
    return values if report.is_bound else {name: values[name] for name in values if name not in _OF_A_BOUND}


class Hook:
    """Listens at named moments. This one does nothing; a real one overrides the moments it cares for."""

    def on_start(self, start: RunStart) -> None:
        """Before the first step of this process."""

    def on_step(self, report: StepReport) -> None:
        """After each optimizer step, applied or skipped."""

    def on_iteration(self, report: IterationReport) -> None:
        """After each iteration of reinforcement learning."""

    def on_reward(self, report: RewardReport) -> None:
        """After the answers to held-out prompts were judged."""

    def on_evaluation(self, report: EvaluationReport) -> None:
        """After each held-out evaluation."""

    def on_preference(self, report: PreferenceMeasured) -> None:
        """After a reward model was measured on held-out preferences."""

    def on_sample(self, sample: Sample) -> None:
        """After each generated sample."""

    def on_saving(self, step: int) -> None:
        """Before a snapshot of this step is committed: what it will be held against has to last as long."""

    def on_save(self, saved: Saved) -> None:
        """After a snapshot was committed."""

    def on_notice(self, text: str) -> None:
        """Something the user should read."""

    def on_end(self, end: RunEnd) -> None:
        """Once, however the run ends on purpose."""


@final
class Hooks(Hook):
    """Passes every moment on to each of its hooks, in order."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = tuple(hooks)

    def _tell(self, moment: str, value: Any) -> None:
        for hook in self._hooks:
            getattr(hook, moment)(value)

    def on_start(self, start: RunStart) -> None:
        self._tell("on_start", start)

    def on_step(self, report: StepReport) -> None:
        self._tell("on_step", report)

    def on_iteration(self, report: IterationReport) -> None:
        self._tell("on_iteration", report)

    def on_reward(self, report: RewardReport) -> None:
        self._tell("on_reward", report)

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._tell("on_evaluation", report)

    def on_preference(self, report: PreferenceMeasured) -> None:
        self._tell("on_preference", report)

    def on_sample(self, sample: Sample) -> None:
        self._tell("on_sample", sample)

    def on_saving(self, step: int) -> None:
        self._tell("on_saving", step)

    def on_save(self, saved: Saved) -> None:
        self._tell("on_save", saved)

    def on_notice(self, text: str) -> None:
        self._tell("on_notice", text)

    def on_end(self, end: RunEnd) -> None:
        self._tell("on_end", end)
