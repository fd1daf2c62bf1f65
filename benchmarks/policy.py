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
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from policy_trial import ANSWER, ANSWERS, EPOCHS, LEARNING_RATE, MINIBATCH, PROMPT, Iteration, Trial

from dreamlm.checkpoints.convert.llama import export
from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.hooks import Hook, IterationReport
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.loading import snapshot_folder
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest
from dreamlm.wiring.training import TrainRequest, train

PROMPTS = 512
SERVER = Path(__file__).with_name("policy_trl.py")


class Peer:
    """TRL's process, seen from here."""

    def __init__(self, python: str, trial: Trial) -> None:
        environment = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [python, SERVER, json.dumps(asdict(trial))],
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


def prepare(folder: Path, vocab_size: int) -> None:
    """The model as a snapshot and as a folder that TRL reads, and prompts of exactly `PROMPT` tokens."""

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
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["fp32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=1, help="of each side in a round")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
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
