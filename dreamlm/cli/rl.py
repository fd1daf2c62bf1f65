"""`dreamlm rl`: learn from preferences and rewards."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dreamlm.cli.console import Console
from dreamlm.cli.options import DeviceOption, JsonOption, PresetOption, RunOption, SeedOption, set_option

if TYPE_CHECKING:
    from dreamlm.core.evaluation.preference import PreferenceReport
    from dreamlm.wiring.policy_start import PolicyRequest
    from dreamlm.wiring.reward_start import RewardRequest


class _PpoByDefault(TyperGroup):
    """`dreamlm rl --run DIR` is `dreamlm rl ppo --run DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names or not args[0].startswith("-"))
        found: list[str] = super().parse_args(ctx, args if named else ["ppo", *args])
        return found


app = typer.Typer(
    cls=_PpoByDefault, help="Learn from preferences and rewards; without a subcommand: ppo.", rich_markup_mode=None
)

FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN|DIR", help="The model: a run, one of its snapshots, or one of transformers."),
]
NprocOption = Annotated[
    int | None, typer.Option("--nproc", min=1, metavar="N", help="Train in N processes here, with DeepSpeed.")
]


@app.command()
def ppo(
    origin: FromOption = None,
    run: RunOption = None,
    preset: PresetOption = None,
    sets: Annotated[list[str] | None, set_option("rl.ppo.iterations=20")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    nproc: NprocOption = None,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Continue a run although safe settings differ.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model by what its own answers earn, or go on where the run stopped.

    Prompts, rewards and settings are those of the preset's rl section; without --preset it is the one inside the model.
    Stop it as you like: Ctrl-C saves first, and the same command resumes.
    """
    from dreamlm.cli.ranks import command_line, run_ranks
    from dreamlm.core.errors import UserMistake
    from dreamlm.presets.resolve import resolve

    console = Console(as_json)
    if run is None:
        raise UserMistake("where should the policy go?", hint="name a run folder with --run DIR")
    changes = [*(sets or ()), *([] if seed is None else [f"rl.ppo.seed={seed}"])]
    chosen = None if preset is None else resolve(preset, changes)
    if nproc is not None and nproc > 1 and "RANK" not in os.environ:
        options = {"--from": origin, "--run": run, "--preset": preset, "--device": device}
        flags = {"--allow-changes": allow_changes, "--json": as_json}
        run_ranks(console, nproc, ["rl", "ppo", *command_line(options, changes, flags)])
        return
    from dreamlm.wiring.policy_start import PolicyRequest

    _learn(console, PolicyRequest(run, origin, chosen, changes, device or "auto", allow_changes))


def _learn(console: Console, request: "PolicyRequest") -> None:
    from dreamlm.cli.live import JsonTraining, LiveTraining
    from dreamlm.cli.ranks import as_a_rank
    from dreamlm.core.training.hooks import Hook
    from dreamlm.wiring.policy import train_policy

    if os.environ.get("RANK", "0") != "0":
        with as_a_rank():
            train_policy(request, Hook())
        return
    with as_a_rank(), console.live() as line:
        train_policy(request, JsonTraining(console) if console.as_json else LiveTraining(console, line))


@app.command()
def reward(
    origin: FromOption = None,
    run: RunOption = None,
    preset: PresetOption = None,
    sets: Annotated[list[str] | None, set_option("rl.reward_model.epochs=1")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    nproc: NprocOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a reward model to preference pairs, or go on where that stopped.

    The pairs are those of the preset's rl.pairs; without --preset it is the one inside the model. Held-out pairs say
    how good it is: one that is not above chance is trained, reported, and refused by whoever would learn from it.
    """
    from dreamlm.cli.ranks import command_line, run_ranks
    from dreamlm.core.errors import UserMistake
    from dreamlm.presets.resolve import resolve

    console = Console(as_json)
    if origin is None:
        raise UserMistake("which model to start from?", hint="name a run or a snapshot with --from DIR")
    if run is None:
        raise UserMistake("where should the reward model go?", hint="name a new run folder with --run DIR")
    changes = [*(sets or ()), *([] if seed is None else [f"rl.reward_model.seed={seed}"])]
    chosen = None if preset is None else resolve(preset, changes)
    if nproc is not None and nproc > 1 and "RANK" not in os.environ:
        options = {"--from": origin, "--run": run, "--preset": preset, "--device": device}
        run_ranks(console, nproc, ["rl", "reward", *command_line(options, changes, {"--json": as_json})])
        return
    from dreamlm.wiring.reward_start import RewardRequest

    _fit(console, RewardRequest(origin, run, chosen, changes, device or "auto"))


def _fit(console: Console, request: "RewardRequest") -> None:
    from dreamlm.cli.live_reward import LiveReward
    from dreamlm.cli.ranks import as_a_rank
    from dreamlm.core.training.hooks import Hook
    from dreamlm.wiring.reward_training import train_reward

    if os.environ.get("RANK", "0") != "0":
        with as_a_rank():
            train_reward(request, Hook())
        return
    with as_a_rank(), console.live() as line:
        report = train_reward(request, LiveReward(console, line))
    if console.as_json:
        console.document({"run": request.run, **report.to_json()})
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
