"""`dreamlm rl`: learn from preferences and rewards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import DeviceOption, JsonOption, PresetOption, RunOption, SeedOption, SetOption

if TYPE_CHECKING:
    from dreamlm.core.evaluation.preference import PreferenceReport

app = typer.Typer(no_args_is_help=True, help="Learn from preferences and rewards.", rich_markup_mode=None)

FromOption = Annotated[
    Path | None, typer.Option("--from", metavar="RUN|DIR", help="The trained model: a run or one of its snapshots.")
]


@app.command()
def reward(
    origin: FromOption = None,
    run: RunOption = None,
    preset: PresetOption = None,
    sets: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a reward model to preference pairs, or go on where that stopped.

    The pairs are those of the preset's rl.pairs; without --preset it is the one inside the model. Held-out pairs say
    how good it is: one that is not above chance is trained, reported, and refused by whoever would learn from it.
    """
    from dreamlm.cli.live_reward import LiveReward
    from dreamlm.core.errors import UserMistake
    from dreamlm.presets.resolve import resolve
    from dreamlm.wiring.reward_training import RewardRequest, train_reward

    console = Console(as_json)
    if origin is None:
        raise UserMistake("which model to start from?", hint="name a run or a snapshot with --from DIR")
    if run is None:
        raise UserMistake("where should the reward model go?", hint="name a new run folder with --run DIR")
    changes = [*(sets or ()), *([] if seed is None else [f"rl.reward_model.seed={seed}"])]
    chosen = None if preset is None else resolve(preset, changes)
    request = RewardRequest(origin, run, chosen, changes, device or "auto")
    with console.live() as line:
        report = train_reward(request, LiveReward(console, line))
    if as_json:
        console.document({"run": run, **report.to_json()})
    else:
        _tell(console, report)


def _tell(console: Console, report: "PreferenceReport") -> None:
    between = report.accuracy_interval
    console.result(
        f"accuracy {report.accuracy:.1%} ({between.low:.1%} to {between.high:.1%}) on {report.pairs:,} held-out pairs, "
        f"calibration error {report.calibration_error:.3f}; the longer answer: {report.length_accuracy:.1%}"
    )
    if not report.above_chance:
        console.warning("that is not above chance: this reward model will be refused where one is asked for")
