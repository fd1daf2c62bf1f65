"""The door of a learned reward model: from a folder on disk to scores, unless it is no better than a coin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamlm.checkpoints.manifest import MANIFEST
from dreamlm.checkpoints.snapshot import Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import NotAboveChance, UserMistake
from dreamlm.core.evaluation.preference import PreferenceReport
from dreamlm.core.objectives.objective import HEADS
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.reward_model import RewardModel
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.memory import LOADING, within_memory
from dreamlm.presets.resolve import resolve_values
from dreamlm.wiring.loading import choose_device, model_like


@dataclass(frozen=True)
class LoadedReward:
    """A reward model that is above chance, in evaluation mode."""

    model: RewardModel
    tokenizer: Tokenizer
    report: PreferenceReport
    """What held-out pairs said of just these weights."""
    folder: Path
    """The snapshot it came from."""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Scores in (-1, 1), on the scale of the measured rewards: 0 is like the mean of the held-out answers.

        tanh((score - mean) / deviation), both of the held-out answers' scores. The model's own scores have neither a
        zero nor a unit: preferences say nothing about either.
        """
        mean, deviation = self.report.score_mean, self.report.score_deviation
        return [math.tanh((score - mean) / deviation) for score in self.model.score(answers)]


def load_reward_model(path: str | Path, device: str = "auto") -> LoadedReward:
    """The best snapshot of a run of `dreamlm rl reward`, or the snapshot in a folder; every byte is verified.

    Raises: NotAboveChance naming accuracy and interval; UserMistake when there is no measured reward model;
    CheckpointError when it is damaged or something else.
    """
    folder = _measured_snapshot(Path(path))
    snapshot = read_snapshot(folder)
    state = RewardState.from_json(snapshot.state)
    report = state.report
    if report is None or state.measured_loss is None:
        raise _not_measured(folder)
    if not report.above_chance:
        between = report.accuracy_interval
        raise NotAboveChance(report.accuracy, between.low, between.high, report.pairs, str(path))
    on_device = choose_device(device)
    with within_memory(LOADING.failure):
        preset = resolve_values(snapshot.preset, str(folder / "preset.json"))
        trunk = model_like(preset, snapshot).to(on_device)
        model = RewardModel(trunk, Tokenizer.load(folder))
        restore(model, snapshot)
    return LoadedReward(model.eval(), model.tokenizer, report, folder)


def restore(model: RewardModel, snapshot: Snapshot) -> None:
    """Give the model the weights of a snapshot of its kind."""
    model.trunk.load_state_dict(dict(snapshot.model), strict=False)  # tied weights stand under one of their names
    model.heads.load_state_dict({name.removeprefix(HEADS): weight for name, weight in snapshot.heads.items()})


def _measured_snapshot(path: Path) -> Path:
    if (path / MANIFEST).exists():
        return path
    if not (path / "checkpoints").is_dir():
        raise UserMistake(
            "there is no reward model here" if path.exists() else "this folder does not exist",
            where=str(path),
            hint="dreamlm rl reward --from RUN --run DIR makes one",
        )
    best = Store(path).best()
    if best is None:
        raise _not_measured(path)
    return best.path


def _not_measured(folder: Path) -> UserMistake:
    return UserMistake(
        "this reward model was not measured on held-out pairs",
        where=str(folder),
        hint="let dreamlm rl reward finish: it measures after every epoch",
    )
