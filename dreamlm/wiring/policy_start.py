"""What a policy's training begins or goes on with, read and checked before anything is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamlm.checkpoints.frozen import freeze
from dreamlm.checkpoints.manifest import Record, read_manifest
from dreamlm.checkpoints.snapshot import MODEL, Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.core.nn.diffusion import require_causal
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.hooks import Hook
from dreamlm.data_sources.prompts import Prompts, read_prompts
from dreamlm.data_sources.sources import SourceConfig
from dreamlm.data_sources.sources.source import SourceContext, SourceReport
from dreamlm.presets.layers import Assignment
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import snapshot_folder
from dreamlm.wiring.places import RunFolder, home
from dreamlm.wiring.resume import check_policy_resume, check_same_model, require_optimizer
from dreamlm.wiring.reward import load_reward_model
from dreamlm.wiring.stock_start import TAKEN_OVER, began_as, begin_folder, is_stock, taken_over

COPIES = 4
"""Of the weights, on disk, before the first update: the reference, and a snapshot with two moments of Adam."""
REFERENCE, REWARD_MODEL = "reference", "reward_model"
"""Where a run keeps the model that its policy began as, and the one that judges its answers."""
USED_OF_A_PRESET = "its rl section is used, and its data where rl.prompts has none"


@dataclass(frozen=True)
class PolicyRequest:
    """What the user asked for."""

    run: Path
    model: Path | None = None
    """Run, snapshot or stock folder that the policy begins as; a run that has begun needs none."""
    preset: Preset | None = None
    """Whose `rl` and `generate` sections take the place of the model's own; a stock folder has none, nor `data`."""
    sets: Sequence[str | Assignment] = ()
    device: str = "auto"
    allow_changes: bool = False


@dataclass(frozen=True)
class PolicyStart:
    """What a run begins or goes on with."""

    snapshot: Snapshot
    preset: Preset
    fresh: bool
    record: Record
    """Of the snapshot."""

    @property
    def model_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.snapshot.model.values())


def start_of(request: PolicyRequest, store: Store, hook: Hook) -> PolicyStart:
    newest = store.latest()
    if newest is None:
        RunFolder(request.run).require_unbegun()
        if request.model is None:
            raise UserMistake(
                "there is no run to continue here",
                where=str(request.run),
                hint="name a model to begin with: --from DIR",
            )
        if is_stock(request.model):
            snapshot, preset = taken_over(request.model, request.preset, request.sets, USED_OF_A_PRESET)
            record = TAKEN_OVER
        else:
            folder = begin_folder(request.model)
            snapshot, record = read_snapshot(folder), read_manifest(folder).record
            preset = _preset(snapshot, request, folder)
            check_same_model(resolve_values(snapshot.preset, str(folder)).model_dump(mode="json"), preset)
        require_causal(preset.model.diffusion, "reinforcement learning")
        return PolicyStart(snapshot, preset, True, record)
    snapshot = read_snapshot(newest.path)
    state = PolicyState.from_json(snapshot.state)  # a run of something else is said to be one before settings differ
    another = f"dreamlm rl --from {request.run} --run OTHER starts another"
    require_optimizer(snapshot, state.updates > 0, request.run, another)
    before = resolve_values(snapshot.preset, str(newest.path))
    if request.model is not None and not (began_as(before, request.model) or _is_reference(request.model, state)):
        hook.on_notice(f"{request.model} is not what the run began with, or not any more; it goes on with its own")
    preset = _preset(snapshot, request, newest.path)
    for sentence in check_policy_resume(before.model_dump(mode="json"), preset, request.allow_changes):
        hook.on_notice(sentence)
    return PolicyStart(snapshot, preset, False, newest.record)


def _is_reference(model: Path, state: PolicyState) -> bool:
    try:
        return read_manifest(snapshot_folder(model)).files[MODEL].sha256 == state.reference
    except (UserMistake, CheckpointError):
        return False


def _preset(snapshot: Snapshot, request: PolicyRequest, folder: Path) -> Preset:
    """The preset inside the snapshot, with what the request says about reinforcement learning."""
    values = dict(snapshot.preset)
    if request.preset is not None:
        said = request.preset.model_dump(mode="json")
        values |= {section: said[section] for section in ("name", "rl", "generate")}
    return resolve_values(values, str(folder / "preset.json"), request.sets)


def check_shares(config: PolicyConfig, prompts: Prompts, place: Place) -> None:
    """Raises: UserMistake when the processes cannot share the answers of an iteration, or of an evaluation."""
    size = config.minibatch // place.world_size
    if config.minibatch % place.world_size or size % min(config.micro_batch, size):
        raise UserMistake(
            f"{place.world_size} processes cannot share a mini-batch of {config.minibatch} answers "
            f"in micro-batches of {config.micro_batch}",
            where="rl.ppo.minibatch",
            hint="choose a minibatch that is a multiple of processes times micro_batch",
        )
    held_out = min(config.eval_prompts, len(prompts.held_out))
    if held_out < place.world_size:
        raise UserMistake(
            f"{place.world_size} processes cannot share {held_out} held-out prompts",
            where="rl.ppo.eval_prompts",
            hint="ask for more of them, or raise rl.prompts.validation_fraction",
        )


def prompts_of(preset: Preset, hook: Hook) -> Prompts:
    reports: list[SourceReport] = []
    context = SourceContext(base_folder=Path.cwd(), cache_folder=home() / "cache", on_notice=hook.on_notice)
    prompts = read_prompts(preset.rl.prompts, preset.data.sources, context, reports, preset.rl.ppo.seed)
    hook.on_notice(f"prompts: {len(prompts.train):,} to learn from, {len(prompts.held_out):,} held out")
    if _may_have_been_read(preset):
        hook.on_notice(
            "the held-out prompts are held out of this run alone: the model may have been trained on their source, "
            "which is among data.sources; rl.prompts.held_out names another"
        )
    for report in reports:
        for reason, count in sorted(report.drops.items()):
            hook.on_notice(f"prompts of {report.source}: {count:,} left out, {reason}")
    return prompts


def freeze_reward_model(preset: Preset, run: Path) -> None:
    """Raises: NotAboveChance for a reward model that is no better than a coin; UserMistake when none is named."""
    if not preset.rl.scoring.learned:
        return
    if preset.rl.learned_from is None:
        raise UserMistake(
            "the learned reward has weight, but no reward model is named",
            where="rl.learned_from",
            hint="name a run of dreamlm rl reward, or set rl.scoring.learned to 0",
        )
    folder = load_reward_model(preset.rl.learned_from, "cpu").folder
    freeze(read_snapshot(folder), read_manifest(folder).record, run / REWARD_MODEL)


def _may_have_been_read(preset: Preset) -> bool:
    """Whether held-out prompts come from a source of training text."""
    source = preset.rl.prompts.held_out or preset.rl.prompts.source
    return source is None or any(_place(source) == _place(one) for one in preset.data.sources)


def _place(source: SourceConfig) -> dict[str, Any]:
    """What a source reads, apart from how it reads it."""
    return {name: value for name, value in dict(source).items() if name in ("type", "paths", "dataset", "split")}
