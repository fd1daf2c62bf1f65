"""TRL's side of `policy.py`, which starts this in TRL's interpreter and asks for one round with every line.

    PYTHON benchmarks/policy_trl.py TRIAL

TRIAL is a `Trial` as JSON. Each line on stdin is answered by one on stdout: the iterations of a round, and the largest
change of a weight so far.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from policy_trial import ANSWER, ANSWERS, EPOCHS, LEARNING_RATE, MINIBATCH, Iteration, Trial


class Trl:
    """TRL's side, in its own interpreter: its trainer runs until an iteration ends, tells, and waits to be asked."""

    def __init__(self, trial: Trial, answers: Any) -> None:
        """answers: where a line goes for each round."""
        # Not above: what they print on import must not be taken for an answer.
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


def main() -> None:
    trial = Trial(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes where errors go
    torch.set_num_threads(trial.threads)
    torch.manual_seed(0)
    Trl(trial, answers).run()


if __name__ == "__main__":
    main()
