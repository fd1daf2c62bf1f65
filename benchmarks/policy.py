"""Speed of `dreamlm rl ppo` against TRL's PPO trainer: same model, prompts, threads and machine, in one run.

    python benchmarks/policy.py --trl PYTHON [--precision fp32 bf16] [--rounds 5] [--iterations 1]
                                [--vocab-size 8192] [--threads N]

PYTHON is the interpreter of an environment of its own, because the last releases with a PPO trainer ask for older
libraries: `python -m venv FOLDER && FOLDER/bin/pip install "trl==0.24.0" "transformers==4.57.6" torch`.

1. a small decoder, hardly trained, becomes a snapshot, and by `dreamlm ckpt export` a folder that TRL reads
2. TRL starts in a process of its own, which works only while it is asked to
3. dreamlm learns here; after every round of its own it waits for a round of TRL
4. both say what they did, so that work left out would show; medians, and medians of the ratios within a round

An iteration is 64 answers of 64 tokens to prompts of 32, then 4 epochs in mini-batches of 16. `reading` is what lies
between roll-out and update: the reference, the critic, rewards and advantages; TRL takes the policy's own
log-probabilities from the roll-out, dreamlm reads them again. TRL trains a critic of the policy's size, dreamlm one
that shares the policy's trunk; `update, policy alone` leaves out TRL's critic, except for its share of the optimizer.

One file serves both interpreters, so what only one of them has is imported where it is used.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

PROMPT, ANSWER, ANSWERS, EPOCHS, MINIBATCH, LEARNING_RATE = 32, 64, 64, 4, 16, 1e-4
TRAINED = EPOCHS * ANSWERS * ANSWER
"""Tokens that the updates of an iteration see."""
PROMPTS = 512


@dataclass(frozen=True)
class Iteration:
    """What one iteration did, and the seconds it took."""

    written: int
    """Tokens of answers."""
    trained: int
    updates: int
    loss: float
    rollout: float
    update: float
    critic: float
    """Part of `update` that a critic with a trunk of its own took."""
    whole: float

    def require_all_work(self, name: str) -> None:
        found = (self.written, self.trained, self.updates)
        wanted = (ANSWERS * ANSWER, TRAINED, EPOCHS * ANSWERS // MINIBATCH)
        if found != wanted or not math.isfinite(self.loss):
            raise SystemExit(f"{name}: {found} tokens written, trained and updates instead of {wanted}, {self.loss=}")


@dataclass(frozen=True)
class Trial:
    """What both sides are told."""

    folder: str
    precision: str
    rounds: int
    """The first warms up and is not counted."""
    iterations: int
    threads: int

    @property
    def prompts(self) -> Path:
        return Path(self.folder) / "prompts.jsonl"

    @property
    def base(self) -> Path:
        """The run that holds the model's snapshot."""
        return Path(self.folder) / "base"

    @property
    def exported(self) -> Path:
        return Path(self.folder) / "llama"


class Trl:
    """TRL's side, in its own interpreter: its trainer runs until an iteration ends, tells, and waits to be asked."""

    def __init__(self, trial: Trial, answers: Any) -> None:
        """answers: where a line goes for each round."""
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
        from trl import PPOConfig, PPOTrainer
        from trl.trainer import ppo_trainer

        tokenizer = AutoTokenizer.from_pretrained(trial.exported)
        lines = map(json.loads, trial.prompts.read_text().splitlines())
        prompts = Dataset.from_list([{"input_ids": line["ids"]} for line in lines])
        policy, reference = (AutoModelForCausalLM.from_pretrained(trial.exported) for _ in range(2))
        # Without accumulation TRL steps after every mini-batch; with it, only once an epoch.
        config = PPOConfig(
            output_dir=f"{trial.folder}/trl", per_device_train_batch_size=ANSWERS, gradient_accumulation_steps=1,
            num_mini_batches=ANSWERS // MINIBATCH, num_ppo_epochs=EPOCHS, local_rollout_forward_batch_size=ANSWERS,
            response_length=ANSWER, total_episodes=ANSWERS * (trial.rounds * trial.iterations + 1), stop_token=None,
            temperature=1.0, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", bf16=trial.precision == "bf16",
            fp16=False, use_cpu=True, gradient_checkpointing=False, num_sample_generations=0, save_strategy="no",
            report_to="none", disable_tqdm=True,
        )  # fmt: skip
        self.trainer = PPOTrainer(
            config, tokenizer, policy, reference, Parity(), prompts,
            AutoModelForSequenceClassification.from_pretrained(trial.exported, num_labels=1), eval_dataset=prompts,
        )  # fmt: skip
        self._every, self._answers, self._padding = trial.iterations, answers, tokenizer.pad_token_id
        self._forbidden = [tokenizer.pad_token_id, tokenizer.eos_token_id]
        self._before = [weight.detach().clone() for weight in policy.parameters()]
        self._done: list[dict[str, Any]] = []
        self._generate, ppo_trainer.batch_generation = ppo_trainer.batch_generation, self._written
        self._backward, self.trainer.accelerator.backward = self.trainer.accelerator.backward, self._timed_backward
        self._listen()

    def _listen(self) -> None:
        trainer = self.trainer
        trainer.log = self._told
        trainer.model.register_forward_pre_hook(self._on_update, with_kwargs=True)
        trainer.model.critic_backbone.register_forward_pre_hook(self._before_critic)
        trainer.model.critic_backbone.register_forward_hook(self._after_critic)
        # The policy ran after the critic, so its part of a backward pass comes first.
        trainer.model.value_model.score.register_full_backward_pre_hook(self._before_critic)
        trainer.optimizer.optimizer.register_step_post_hook(self._on_step)

    def run(self) -> None:
        self._wait()
        self.trainer.train()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit
        self._begin()

    def _begin(self) -> None:
        self._begun, self._updating = time.perf_counter(), 0.0
        self._rollout = self._critic = 0.0
        self._tokens = self._trained = self._updates = 0

    def _written(self, model: Any, queries: Any, rows: int, padding: int, config: Any) -> Any:
        config.suppress_tokens = self._forbidden
        begun = time.perf_counter()
        found = self._generate(model, queries, rows, padding, config)
        self._rollout = time.perf_counter() - begun
        self._tokens = int((found[0][:, queries.shape[1] :] != self._padding).sum())
        return found

    def _on_update(self, module: Any, args: Any, kwargs: Any) -> None:
        self._updating = self._updating or time.perf_counter()
        self._trained += len(kwargs["input_ids"]) * ANSWER

    def _before_critic(self, *args: Any) -> None:
        self._critic_begun = time.perf_counter()

    def _after_critic(self, *args: Any) -> None:
        if self._updating:
            self._critic += time.perf_counter() - self._critic_begun

    def _timed_backward(self, loss: Any) -> None:
        self._backward(loss)
        self._after_critic()

    def _on_step(self, *args: Any) -> None:
        self._updates += 1

    def _told(self, metrics: dict[str, float]) -> None:
        """The trainer logs at the end of an iteration."""
        now = time.perf_counter()
        loss = metrics["loss/policy_avg"] + metrics["loss/value_avg"]
        one = Iteration(self._tokens, self._trained, self._updates, loss, self._rollout, now - self._updating,
                        self._critic, now - self._begun)  # fmt: skip
        self._done.append(asdict(one))
        if len(self._done) < self._every:
            self._begin()
            return
        weights = zip(self._before, self.trainer.policy_model.parameters(), strict=True)
        moved = max(float((after - before).abs().max()) for before, after in weights)
        self._answers.write(json.dumps({"iterations": self._done, "moved": moved}) + "\n")
        self._answers.flush()
        self._done.clear()
        self._wait()


class Parity(torch.nn.Module):
    """A reward model that costs nothing: the share of even tokens so far."""

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Echo()

    def score(self, ids: torch.Tensor) -> torch.Tensor:
        even = (ids % 2 == 0).float()
        return (even.cumsum(1) / torch.arange(1, ids.shape[1] + 1))[:, :, None]


class Echo(torch.nn.Module):
    """Says the tokens it reads."""

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        return argparse.Namespace(hidden_states=[input_ids])


class Peer:
    """TRL's process, seen from here."""

    def __init__(self, python: str, trial: Trial) -> None:
        environment = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [python, __file__, "--serve", json.dumps(asdict(trial))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.moved = 0.0

    def round(self) -> list[Iteration]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"TRL's process ended with {self._process.wait()}; it says why above")
        found = json.loads(line)
        self.moved = found["moved"]
        return [Iteration(**one) for one in found["iterations"]]

    def close(self) -> None:
        self._process.communicate()


def serve(trial: Trial) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes where errors go
    torch.set_num_threads(trial.threads)
    torch.manual_seed(0)
    Trl(trial, answers).run()


def prepare(folder: Path, vocab_size: int) -> None:
    """The model as a snapshot and as a folder that TRL reads, and prompts of exactly `PROMPT` tokens."""
    from dreamlm.checkpoints.convert.llama import export
    from dreamlm.core.tokenizer import Tokenizer
    from dreamlm.core.training.hooks import Hook
    from dreamlm.data_sources.progress import Silence
    from dreamlm.presets.resolve import resolve
    from dreamlm.wiring.loading import snapshot_folder
    from dreamlm.wiring.training import TrainRequest, train

    trial = Trial(str(folder), "", 0, 0, 0)
    sets = ["model.hidden_size=256", "model.num_heads=4", "model.qk_norm=false", "model.attention_gate=false",
            f"tokenizer.vocab_size={vocab_size}",
            "train.train_tokens=20480", "train.precision=fp32", "train.sample_prompts=[]"]  # fmt: skip
    train(TrainRequest(resolve("tiny", sets), trial.base, corpus=folder / "corpus"), Hook(), Silence())
    snapshot = snapshot_folder(trial.base)
    export(snapshot, trial.exported)
    lines = [json.dumps({"text": text, "ids": ids}) for text, ids in texts(Tokenizer.load(snapshot))]
    trial.prompts.write_text("\n".join(lines))


def texts(tokenizer: Any) -> Iterator[tuple[str, list[int]]]:
    """Different texts that are `PROMPT` tokens with the end-of-document token before them, and those tokens."""
    from pydoc_data.topics import topics

    found: dict[str, list[int]] = {}
    for topic in topics.values():
        ids = tokenizer.encode(topic)
        for begin in range(0, len(ids), PROMPT):
            text = tokenizer.decode(ids[begin : begin + PROMPT - 1])
            again = tokenizer.encode(text)
            if len(again) == PROMPT - 1 and text == text.strip():
                found[text] = [tokenizer.end_of_document_id, *again]
    if len(found) < PROMPTS:
        raise SystemExit(f"{len(found)} texts of {PROMPT} tokens instead of {PROMPTS}")
    yield from list(found.items())[:PROMPTS]


def settings(trial: Trial) -> list[str]:
    """Of `dreamlm rl ppo`; whatever ends an iteration early, looks on, or saves is put out of reach."""
    rounds = trial.rounds * trial.iterations
    said = {
        "rl.prompts": {"source": {"type": "jsonl", "paths": str(trial.prompts)}, "prompt": "{text}"},
        "rl.scoring": {"coherence": 0.0, "correctness": 0.0, "creativity": 1.0, "measure_all": False},
        "rl.ppo": {
            "iterations": rounds, "answers": ANSWERS, "epochs": EPOCHS, "minibatch": MINIBATCH,
            "micro_batch": MINIBATCH, "precision": trial.precision, "eval_iterations": rounds + 1, "eval_prompts": 16,
            "save_interval_iterations": rounds + 1, "save_interval_seconds": 1e9, "stop_kl": 1e3, "samples": 0,
            "optimizer": {"type": "adamw", "learning_rate": LEARNING_RATE, "weight_decay": 0.0},
            "alarms": {"patience": rounds + 1},
            "rollout": {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "temperature": 1.0, "rows": ANSWERS},
        },
    }  # fmt: skip
    return [f"{name}={json.dumps(value)}" for name, value in said.items()]


Rounds = list[tuple[list[Iteration], list[Iteration]]]
"""Of every round dreamlm's iterations and TRL's."""


def take_turns(trial: Trial, peer: Peer) -> tuple[Rounds, float]:
    """All rounds, and the largest change of a weight of dreamlm's policy."""
    from dreamlm.checkpoints.snapshot import read_snapshot
    from dreamlm.core.training.hooks import Hook, IterationReport
    from dreamlm.wiring.loading import snapshot_folder
    from dreamlm.wiring.policy import train_policy
    from dreamlm.wiring.policy_start import PolicyRequest

    rounds: Rounds = []

    class Turns(Hook):
        """Counts an iteration; after a round of them it is TRL's turn."""

        def __init__(self) -> None:
            self._done: list[Iteration] = []
            self._begun = time.perf_counter()

        def on_iteration(self, report: IterationReport) -> None:
            written, trained = round(ANSWERS * report.length), round(ANSWERS * report.length * report.epochs)
            rollout = written / report.rollout_tokens_per_second
            update = trained / report.update_tokens_per_second
            updates, loss = round(report.epochs * ANSWERS / MINIBATCH), report.policy_loss + report.value_loss
            # The first iteration follows start-up; it warms up and is not counted.
            whole = time.perf_counter() - self._begun
            self._done.append(Iteration(written, trained, updates, loss, rollout, update, 0.0, whole))
            if len(self._done) == trial.iterations:
                theirs = peer.round()
                rounds.append((self._done, theirs))
                seconds = (sum(one.whole for one in side) for side in (self._done, theirs))
                print(f"round {len(rounds) - 1}: {next(seconds):.1f} s and {next(seconds):.1f} s", file=sys.stderr)
                self._done = []
            self._begun = time.perf_counter()

    run = Path(trial.folder) / f"policy-{trial.precision}"
    train_policy(PolicyRequest(run, trial.base, sets=settings(trial)), Turns())
    before, after = (read_snapshot(snapshot_folder(one)).model for one in (trial.base, run))
    return rounds, max(float((after[name] - before[name]).abs().max()) for name in before)


PARTS = {
    "roll-out, tokens/s": lambda one: one.written / one.rollout,
    "update, tokens/s": lambda one: one.trained / one.update,
    "update, policy alone, tokens/s": lambda one: one.trained / (one.update - one.critic),
    "roll-out and update, tokens/s": lambda one: one.written / (one.rollout + one.update),
    "reading, answers/s": lambda one: ANSWERS / (one.whole - one.rollout - one.update),
    "iteration, answers/s": lambda one: ANSWERS / one.whole,
}


def report(trial: Trial, rounds: Rounds, moved: tuple[float, float]) -> None:
    counted = rounds[1:]
    for ours, theirs in counted:
        for one, other in zip(ours, theirs, strict=True):
            one.require_all_work("dreamlm")
            other.require_all_work("TRL")
    if not min(moved) > 0:
        raise SystemExit(f"a policy did not learn: its weights moved by {moved}")
    print(f"{trial.precision}, {trial.threads} threads, {len(counted)} rounds of {trial.iterations} iterations; "
          f"largest change of a weight {moved[0]:.1e} and {moved[1]:.1e}")  # fmt: skip
    for name, speed in PARTS.items():
        pairs = [tuple(statistics.fmean(map(speed, side)) for side in both) for both in counted]
        ratios = [mine / theirs for mine, theirs in pairs]
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"  {name:32} dreamlm {mine:8,.1f}   TRL {theirs:8,.1f}   dreamlm / TRL {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", metavar="PYTHON")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["fp32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=1, help="of each side in a round")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.serve:
        serve(Trial(**options.serve))
        return
    if options.trl is None:
        parser.error("--trl names the interpreter of an environment that has TRL")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary), options.vocab_size)
        for precision in options.precision:
            trial = Trial(temporary, precision, options.rounds + 1, options.iterations, options.threads)
            peer = Peer(options.trl, trial)
            rounds, moved = take_turns(trial, peer)
            peer.close()
            report(trial, rounds, (moved, peer.moved))


if __name__ == "__main__":
    main()
