"""The loop of reinforcement learning: prompts -> answers -> experience -> updates -> alarms -> report -> save.

An iteration is a pure function of the state before it, so a run that was killed repeats the iteration it was in, and
comes to the same weights. What an update computes is the backend's business, as in `core.training.loop`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, final

from dreamlm.core.errors import DreamLMError, Paused, TrainingFailed
from dreamlm.core.rl.agreement import require_agreement
from dreamlm.core.rl.alarms import PULL_GROWTH, RATE_CUT, Figures
from dreamlm.core.rl.answer import Prompt
from dreamlm.core.rl.collect import Collector, summary
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.rewards.mix import RewardNotFinite
from dreamlm.core.rl.rollout import LogitsNotFinite
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.rl.telling import iteration_report, reward_interval
from dreamlm.core.rl.updates import Updater
from dreamlm.core.rng import derive_seed
from dreamlm.core.training.backend.backend import Backend
from dreamlm.core.training.hooks import Hook, RewardReport, RunEnd, RunStart, Sample
from dreamlm.core.training.interruption import StopRequest
from dreamlm.core.training.memory import Phase, within_memory
from dreamlm.core.training.saving import SavePlan, Saver, Saving, roll_back_together

COLLECTING = Phase("writing and reading answers", "lower rl.ppo.rollout.rows or rl.ppo.micro_batch", "rl.ppo")
UPDATING = Phase("updating the policy", "lower rl.ppo.micro_batch", "rl.ppo.micro_batch")
SAVING = Phase("gathering a snapshot in the memory of the first process", "use a machine with more memory")
ANOTHER_REWARD = "start another run with --run OTHER and another weight in rl.scoring: a run's reward stays as it is"
ANOTHER_MODEL = "the model that the run begins as is broken: dreamlm eval --run RUN says more, --from names another"
SMALLER_STEPS = "dreamlm rl ppo --run DIR --allow-changes --set rl.ppo.optimizer.learning_rate=... goes on from there"


class PromptSource(Protocol):
    """Where prompts come from; which ones come next is a pure function of how many came before."""

    @property
    def held_out(self) -> Sequence[Prompt]:
        """Prompts that nothing is learned from."""
        ...

    def draw(self, cursor: int, count: int) -> Sequence[Prompt]:
        """The next `count` prompts after the first `cursor`."""
        ...


@final
class PolicyTrainer:
    """Runs iterations until their number is reached, a signal asks to stop, or going on makes no sense."""

    def __init__(
        self,
        config: PolicyConfig,
        backend: Backend,
        collector: Collector,
        prompts: PromptSource,
        saver: Saver,
        hooks: Hook,
    ) -> None:
        self._config, self._backend, self._collector = config, backend, collector
        self._prompts, self._saver, self._hooks = prompts, saver, hooks
        self._updater = Updater(config, backend, hooks)
        plan = SavePlan(config.save_interval_iterations, config.save_interval_seconds, config.retry_seconds)
        self._saving = Saving(plan, saver, hooks, backend)
        self._begun = time.monotonic()
        with backend.whole():
            self._parameters = sum(parameter.numel() for parameter in backend.model.parameters())

    def run(self, state: PolicyState) -> PolicyState:
        """Go on from `state` until `iterations`.

        Raises: Interrupted after a signal, once a snapshot is committed; Paused by an alarm, likewise; TrainingFailed,
        OutOfMemory among it, back at the last finite snapshot when logits or rewards are not finite; UserMistake when
        no reward applies to an answer; OutOfSpace.
        """
        self._begun = time.monotonic()
        with StopRequest(self._hooks.on_notice) as stop:
            self._start(state)
            if state.judged_step is None:
                with self._on_record(state):
                    state = self._judge(state)
                self._save(state)
            while state.step < self._config.iterations:
                before = state
                with self._on_record(state):
                    state, alarms = self._iterate(state)
                    finished = state.step == self._config.iterations
                    if finished or state.step % self._config.eval_iterations == 0:
                        state = self._judge(state)
                stopping = self._backend.any(stop.number != 0)
                given_up = bool(alarms) and state.watch.backoffs > self._config.alarms.backoffs
                improved = state.best_reward != before.best_reward
                if finished or stopping or alarms or improved or self._saving.is_due(state.step):
                    self._save(state, stop)
                if given_up:
                    raise self._collapsed(state, alarms)
                if stopping and not finished:
                    self._end("interrupted", state)
                    raise stop.ended(f"iteration {state.step}")
                if alarms and self._config.alarms.pause and not finished:
                    raise self._paused(state, alarms)
        self._end("finished", state)
        return state

    def _iterate(self, state: PolicyState) -> tuple[PolicyState, list[str]]:
        """One iteration; the state after it, and the alarms that it raised."""
        begin, config = time.monotonic(), self._config
        prompts, numbers = self._share(self._prompts.draw(state.prompt_cursor, config.answers))
        plan = self._updater.plan(state, len(prompts))
        seeds = [derive_seed(state.seed, "answer", state.step, number) for number in numbers]
        with within_memory(COLLECTING.failure):
            written = self._collector.write(
                prompts, seeds, [group for batch in plan[0] for group in batch], in_step=True
            )
            collected = self._collector.collect(written, state.kl_coefficient, state.moments)
        require_agreement(collected.disagreement, config.rollout.temperature, self._backend)
        with within_memory(UPDATING.failure):
            state, moved = self._updater.update(state, collected.experience, plan)
        found = collected.summary
        state = replace(
            state,
            step=state.step + 1,
            tokens=state.tokens + found.tokens,
            prompt_cursor=state.prompt_cursor + config.answers,
            moments=collected.moments,
            kl_coefficient=config.kl.following(state.kl_coefficient, found.kl, found.answers),
        )
        self._hooks.on_iteration(iteration_report(config, state, collected, moved, time.monotonic() - begin))
        figures = Figures(
            entropy=moved.mean("entropy"),
            kl=found.kl,
            length=found.length,
            ended=found.ended,
            repetition=found.repetition,
            explained_variance=collected.explained_variance,
            skipped=moved.skipped,
        )
        watch, alarms = state.watch.after(figures, config.alarms, found.answers)
        state = replace(state, watch=watch)
        if alarms and watch.backoffs <= config.alarms.backoffs:
            state = self._back_off(state, alarms)
        return state, alarms

    def _share(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
        """This process's prompts, and their numbers among all of an iteration."""
        numbers = list(range(self._backend.rank, len(prompts), self._backend.world_size))
        return [prompts[number] for number in numbers], numbers

    def _back_off(self, state: PolicyState, alarms: Sequence[str]) -> PolicyState:
        """Smaller steps, and a stronger pull towards the reference."""
        state = replace(
            state,
            rate_factor=state.rate_factor * RATE_CUT,
            kl_coefficient=self._config.kl.bounded(state.kl_coefficient * PULL_GROWTH),
            skipped_in_a_row=0,
        )
        self._hooks.on_notice(
            f"alarm at iteration {state.step}: {'; '.join(alarms)}; the learning rate falls to "
            f"{self._rate(state):.3g}, the KL coefficient rises to {state.kl_coefficient:.3g}"
        )
        return state

    def _rate(self, state: PolicyState) -> float:
        return self._config.optimizer.learning_rate * state.rate_factor

    def _paused(self, state: PolicyState, alarms: Sequence[str]) -> Paused:
        self._end("paused", state)
        processes = f" --nproc {self._backend.world_size}" if self._backend.world_size > 1 else ""
        return Paused(
            state.step,
            alarms,
            self._rate(state),
            state.kl_coefficient,
            hint=f"dreamlm rl ppo --run DIR{processes} goes on; --set rl.ppo.alarms.pause=false does so without pauses",
        )

    def _collapsed(self, state: PolicyState, alarms: Sequence[str]) -> TrainingFailed:
        self._end("failed", state)
        return TrainingFailed(
            f"the policy collapses, and smaller steps have not helped {self._config.alarms.backoffs} times: "
            f"{'; '.join(alarms)}; a snapshot of iteration {state.step} was saved",
            hint="dreamlm ckpt list names the best; raise rl.ppo.kl.initial, or lower the learning rate",
        )

    def _judge(self, state: PolicyState) -> PolicyState:
        """Answer held-out prompts, always with the same random numbers."""
        prompts = list(self._prompts.held_out[: self._config.eval_prompts])
        mine, numbers = self._share(prompts)
        seeds = [derive_seed(state.seed, "held-out answer", number) for number in numbers]
        rows = self._config.micro_batch
        groups = [list(range(begin, min(begin + rows, len(mine)))) for begin in range(0, len(mine), rows)]
        with within_memory(COLLECTING.failure):
            written = self._collector.write(mine, seeds, groups, in_step=False)
            found = summary(written, self._backend.sum)
        best = state.best_reward is None or found.reward > state.best_reward
        interval = reward_interval(found)
        self._hooks.on_reward(
            RewardReport(state.step, state.tokens, found.reward, interval, found.components, found.kl, best)
        )
        for one in written.rollouts[: self._config.samples]:
            self._hooks.on_sample(Sample(state.step, one.answer.prompt.text, one.answer.text))
        return replace(
            state,
            last_reward=found.reward,
            best_reward=found.reward if best else state.best_reward,
            judged_step=state.step,
        )

    def _save(self, state: PolicyState, stop: StopRequest | None = None) -> None:
        with self._on_record(state), within_memory(SAVING.failure):
            self._saving.save(state, stop)

    @contextmanager
    def _on_record(self, state: PolicyState) -> Iterator[None]:
        """What fails ends the run, which is to be told like any other end.

        Neither alarms nor smaller steps help where no answer can be written or judged: going on repeats the iteration.
        """
        try:
            yield
        except (LogitsNotFinite, RewardNotFinite) as error:
            self._end("failed", state)
            hint = ANOTHER_REWARD
            if isinstance(error, LogitsNotFinite):
                hint = SMALLER_STEPS if state.updates else ANOTHER_MODEL
            what = f"{error.what}, after iteration {state.step}; {self._left(state)}"
            raise TrainingFailed(what, where=error.where, hint=hint) from error
        except DreamLMError:
            self._end("failed", state)
            raise

    def _left(self, state: PolicyState) -> str:
        """What a run that cannot go on leaves, the same on every process. Collective."""
        if state.judged_step is None:
            return "no snapshot was saved yet"
        step = roll_back_together(self._saver, self._backend)
        return f"the run is back at its last finite snapshot, iteration {step}"

    def _start(self, state: PolicyState) -> None:
        config = self._config
        self._hooks.on_start(
            RunStart(
                step=state.step,
                planned_steps=config.iterations,
                tokens=state.tokens,
                train_tokens=config.iterations * config.answers * config.rollout.max_new_tokens,
                tokens_per_step=config.answers * config.rollout.max_new_tokens,
                parameters=self._parameters,
                vocab_size=self._backend.model.vocab_size,
                precision=self._backend.precision,
                device=str(self._backend.device),
                world_size=self._backend.world_size,
                resumed=state.step > 0,
            )
        )

    def _end(self, reason: str, state: PolicyState) -> None:
        seconds = time.monotonic() - self._begun
        self._hooks.on_end(RunEnd(reason, state.step, state.tokens, seconds, None, None, None, state.last_reward))
