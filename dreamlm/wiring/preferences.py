"""Preferences on their way to a reward model: read as the preset says, tokenised, measured; what is lost is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.pair_reading import Measure, ReadPairs, read_pairs_as_tokens
from dreamlm.core.rl.reference import Reference
from dreamlm.core.rl.reward_model import RewardModel
from dreamlm.core.rl.reward_training import RewardData
from dreamlm.core.rl.rewards.mix import Rewards
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.hooks import Hook
from dreamlm.data_sources.pairs import Pairs, read_pairs
from dreamlm.data_sources.sources.source import SourceContext, SourceReport
from dreamlm.presets.schema import Preset
from dreamlm.wiring.places import home


def read_preferences(preset: Preset, hook: Hook) -> Pairs:
    """Raises: UserMistake when the preset names no pairs; as `read_pairs` otherwise."""
    config = preset.rl.pairs
    if config is None:
        raise UserMistake(
            "which preferences?",
            where="rl.pairs",
            hint='for example --set \'rl.pairs={"source": {"type": "jsonl", "paths": "pairs.jsonl"}}\'',
        )
    report = SourceReport(config.source.source_name)
    context = SourceContext(Path.cwd(), home() / "cache", on_notice=hook.on_notice)
    pairs = read_pairs(config, context, report)
    hook.on_notice(f"{len(pairs.train):,} pairs to train on, {len(pairs.held_out):,} held out")
    for reason, count in sorted(report.drops.items()):
        hook.on_notice(f"left out: {count:,} x {reason}")
    return pairs


def reward_data(pairs: Pairs, model: RewardModel, measure: Measure, hook: Hook) -> RewardData:
    """The pairs as the model reads them.  Raises: DataError when the window leaves nothing to compare."""
    train = read_pairs_as_tokens(pairs.train, model.tokenizer, model.window, measure)
    held_out = read_pairs_as_tokens(pairs.held_out, model.tokenizer, model.window)
    _tell_losses([train, held_out], model.window, hook)
    if not train.pairs or not held_out.pairs:
        raise DataError(
            f"within the {model.window:,} tokens that the model reads, no two answers of a side of the split differ",
            where="rl.pairs",
            hint="start from a model with longer windows",
        )
    return RewardData(train.pairs, held_out.pairs)


def _tell_losses(parts: Sequence[ReadPairs], window: int, hook: Hook) -> None:
    cut, same = sum(part.cut for part in parts), sum(part.same for part in parts)
    texts = 2 * (sum(len(part.pairs) for part in parts) + same)
    if cut:
        hook.on_notice(f"{cut:,} of {texts:,} texts lost their oldest tokens: the model reads {window:,}")
    if same:
        hook.on_notice(f"left out: {same:,} pairs whose answers are the same within those {window:,} tokens")


def measured_by(model: DreamLM, tokenizer: Tokenizer, hook: Hook) -> Measure:
    """What teaches the components their meaning: the measured rewards, under the model that training starts from."""
    rewards = Rewards.Config().build(Reference(model, tokenizer))

    def measure(answers: Sequence[Answer]) -> Mapping[str, Sequence[float | None]]:
        hook.on_notice(f"measuring {len(answers):,} answers: what the components are to mean")
        return rewards.score(answers).components

    return measure
