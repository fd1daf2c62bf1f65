"""DeepSpeed ZeRO over one or more processes: fp32 weights, autocast to bf16 where asked.

ZeRO divides among the ranks what each would otherwise hold in full: the optimizer state (stage 1), the gradients too
(stage 2), the weights too (stage 3); at stage 0 nothing.  Source: Rajbhandari et al. 2020.

The weights stay fp32 and the forward pass runs under torch's autocast, exactly as in `SingleProcess`: DeepSpeed's own
bf16 mode would keep bf16 weights and norms, so that a run could not move between backends without a jump in its loss.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast, final

import deepspeed
import torch
from torch import Tensor, distributed, nn

from dreamlm.core.errors import TrainingFailed, UserMistake
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.training.backend import process_group, zero_fetching, zero_tensors
from dreamlm.core.training.backend.backend import (
    Backend,
    Measured,
    MicroBatch,
    Tensors,
    Update,
)
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.backend.reached import Reached
from dreamlm.core.training.backend.tally import Tally
from dreamlm.core.training.backend.zero_pieces import PiecewiseAdamW
from dreamlm.core.training.optim import AdamW, NamedParameters, OptimizerConfig, Optimizers

BUCKET = 1 << 25
"""Most gradients, or weights, that one exchange between ranks carries: 128 MiB in fp32."""
UNDIVIDED = 100_000
"""Weights of this size or smaller are left whole on every rank at stage 3; tests divide these too."""


@final
class ZeroBackend(Backend):
    """One rank of a DeepSpeed run; agrees with `SingleProcess` on the same global batch.

    Also in what it leaves alone: a weight that no pass of any rank brings a gradient to in a step is not touched, does
    not decay and has no step counted, at every stage.

    Departs: where a model has modules and the passes of the ranks are of different lengths, shorter ones are padded
    (`MicroBatch.padded`), which modules' own losses and what is drawn for dropout notice. From stage 1 on a model that
    takes pictures has one in each micro-batch (`MicroBatch.with_picture`); what is drawn notices that too. At stage 3
    in bf16, results are rounded elsewhere: DeepSpeed's linear layers keep no bf16 copy of the weights for the backward
    pass.
    """

    can_repeat = False

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerConfig,
        loss_weights: Mapping[str, float],
        max_grad_norm: float,
        precision: str,
        compile: bool,
        stage: int,
        place: Place,
    ) -> None:
        """Gives every rank its part of the model. Collective: the processes have joined their group before.

        optimizer: AdamW, or any at stage 0.
        """
        self.rank, self.world_size = place.rank, place.world_size
        self.precision = precision
        self.device = objective.model.device
        self.objective = objective
        self._parameters = objective.trained()
        self._stage, self._max_grad_norm = stage, max_grad_norm
        if compile:
            objective.compile()
        self._step_loss = _StepLoss(objective, loss_weights, self.autocast)
        self._reached = Reached(self._parameters)
        self._everything = frozenset(parameter for _, parameter in self._parameters)
        self._optimizer = optimizer.build(self._parameters) if stage == 0 else _divisible(optimizer, self._parameters)
        self._engine, _, _, _ = deepspeed.initialize(
            model=self._step_loss,
            optimizer=self._optimizer.as_one() if isinstance(self._optimizer, Optimizers) else self._optimizer,
            config=_configuration(stage, max_grad_norm, sum(p.numel() for _, p in self._parameters)),
            dist_init_required=False,
        )
        zero_fetching.mend_fetching(self._engine)
        if isinstance(self._optimizer, PiecewiseAdamW):
            self._optimizer.pieces = zero_tensors.find_pieces(self._engine)
        for group in self._groups():
            group["initial_lr"] = group["lr"]

    def whole(self) -> AbstractContextManager[None]:
        return zero_fetching.whole_weights(self._engine)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def weigh(self, factors: Mapping[str, float]) -> None:
        self._step_loss.factors = factors

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Measured:
        mine = [micro.targets for micro in micro_batches]
        total, counting = self._count(mine)
        tally = Tally(self.device, counting)
        zero_tensors.clear_gradients(self._engine)
        in_step = zip(micro_batches, self._in_step(micro_batches), mine, strict=True)
        for number, (given, micro, targets) in enumerate(in_step, start=1):
            torch.manual_seed(micro.seed)
            self._engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            # DeepSpeed averages over the ranks; what is wanted is the sum over all of them per real target.
            scale = self.world_size / total if targets else 0.0
            loss, nll, objectives, probes = self._engine(scale, *micro.inputs(self.device))
            self._reached.passed_over = self._untaught(given)
            self._engine.backward(loss)
            tally.add(targets, nll, objectives, probes)
        return tally.measured(total, self.sum)

    def _count(self, targets: Sequence[int]) -> tuple[int, int]:
        """Real targets of the global batch, and its micro-batches that have any, when those of this rank have so many.

        Raises: UserMistake when a rank has more micro-batches than another.
        """
        mine = len(targets)
        total, counting, number, squares = self.sum([sum(targets), sum(map(bool, targets)), mine, mine**2])
        if squares * self.world_size != number**2:
            raise UserMistake(
                f"the {number:.0f} micro-batches of a step cannot be shared equally among {self.world_size} processes",
                where="--nproc",
                hint="continue with as many processes as the run began with, or a divisor of that number",
            )
        return int(total), int(counting)

    def _in_step(self, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """Where the model has modules, as long as the longest that another rank passes at the same time. Collective.

        Where it takes pictures and gradients are exchanged as they come, from stage 1 on, each with one at least, so
        that every rank passes the encoder.
        A longer one has more segments, for which layers are fetched once more and modules get a gradient, and all
        ranks must exchange the same weights and gradients in the same order.
        """
        if self._stage > 0 and (form := self.model.config.image_form) is not None:
            micro_batches = [micro.with_picture(form) for micro in micro_batches]
        if not self.model.config.modules:
            return micro_batches
        lengths = self.lengths_in_step([micro.length for micro in micro_batches])
        return [micro.padded(length) for micro, length in zip(micro_batches, lengths, strict=True)]

    def lengths_in_step(self, lengths: Sequence[int]) -> Sequence[int]:
        if not self.model.config.modules:
            return lengths
        longest = torch.tensor(lengths, device=self.device)
        distributed.all_reduce(longest, distributed.ReduceOp.MAX)
        return cast(list[int], longest.tolist())

    def _untaught(self, micro: MicroBatch) -> Collection[Tensor]:
        """What a micro-batch, as it was given, teaches nothing; a gradient of zero may come to it all the same."""
        if not micro.targets:
            return self._everything
        return () if micro.has_picture else self.model.vision.of_pictures

    def update(self, factor: float) -> Update:
        for group in self._groups():
            group["lr"] = group["initial_lr"] * factor
        reached = self._reached.by_any_rank(self.sum)
        self._reached.forget()
        if isinstance(self._optimizer, PiecewiseAdamW):
            self._optimizer.moving = reached
            norm = self._step_divided()
        else:
            norm = self._step_undivided(reached)
        return Update(norm, self._groups()[0]["lr"], math.isfinite(norm))

    def _step_divided(self) -> float:
        """DeepSpeed clips and steps, or skips a gradient that is not finite; the norm before clipping."""
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if self._engine.was_step_applied() != math.isfinite(norm):
            raise TrainingFailed(
                f"DeepSpeed {'skipped' if math.isfinite(norm) else 'applied'} a step whose gradient norm is {norm}",
                hint="train.backend=torch, or another train.zero_stage; please report this",
            )
        return norm

    def _step_undivided(self, reached: Sequence[nn.Parameter]) -> float:
        """At stage 0 DeepSpeed sums the gradients and steps, whatever they are; the norm before clipping."""
        for parameter in {parameter for _, parameter in self._parameters}.difference(reached):
            parameter.grad = None  # DeepSpeed has made one of zeros
        norm = nn.utils.get_total_norm([p.grad for p in reached if p.grad is not None])
        if torch.isfinite(norm):
            nn.utils.clip_grads_with_norm_(reached, self._max_grad_norm, norm)
            self._engine.step()
        else:
            self.discard()
        return norm.item()

    def discard(self) -> None:
        self._reached.forget()
        zero_tensors.forget_gradients(self._engine)

    def gather(self) -> Tensors:
        keep = self.rank == 0
        weights = zero_tensors.gather_weights(self._engine, self._parameters, keep)
        if isinstance(self._optimizer, PiecewiseAdamW):
            return Tensors(weights, zero_tensors.gather_optimizer(self._optimizer, self._parameters, keep))
        state = self._optimizer.state() if keep else {}
        return Tensors(weights, {name: value.detach().cpu().clone() for name, value in state.items()})

    def restore(self, tensors: Tensors) -> None:
        zero_tensors.restore_weights(self._engine, self._parameters, tensors.model)
        if isinstance(self._optimizer, PiecewiseAdamW):
            zero_tensors.restore_optimizer(self._optimizer, self._parameters, tensors.optimizer)
        else:
            self._optimizer.restore(tensors.optimizer)

    def any(self, flag: bool) -> bool:
        return self.sum([float(flag)])[0] > 0

    def sum(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def first(self, text: str) -> str:
        texts = [""] * self.world_size
        distributed.all_gather_object(texts, text)
        return next(filter(None, texts), "")

    def close(self) -> None:
        self._engine.destroy()
        process_group.leave()

    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._engine.optimizer.param_groups
        return groups


class _StepLoss(nn.Module):
    """What DeepSpeed wraps: its hooks look for tensors in tuples and dictionaries, not in a `Losses`."""

    def __init__(
        self, objective: Objective, loss_weights: Mapping[str, float], autocast: Callable[[], torch.autocast]
    ) -> None:
        super().__init__()
        self.objective = objective
        self._loss_weights, self._autocast = loss_weights, autocast
        self.factors: Mapping[str, float] = {}

    def forward(self, scale: float, *inputs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The scaled weighted loss to differentiate; then, detached, nll and objectives as sums, and probes.

        DeepSpeed turns autocast off around its own forward pass, so it is turned on inside.
        """
        with self._autocast():
            losses = self.objective(*inputs)
        weighted = [self._weight(name) * loss for name, loss in losses.objectives.items()]
        loss = torch.stack(weighted).sum() * scale
        return loss, losses.nll, _detached(losses.objectives), _detached(losses.probes)

    def _weight(self, name: str) -> float:
        return self._loss_weights[name] * self.factors.get(name, 1.0)


def _divisible(optimizer: OptimizerConfig, parameters: NamedParameters) -> PiecewiseAdamW:
    assert isinstance(optimizer, AdamW.Config), "no other works on pieces of matrices"
    return PiecewiseAdamW(optimizer.build_torch(parameters))


def _detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}


def _configuration(stage: int, max_grad_norm: float, parameters: int) -> dict[str, Any]:
    """DeepSpeed's own configuration, which it does not check for typing errors: every key is written here.

    One accumulation step, because the boundary is set by hand; gradients are summed and sent in fp32.
    """
    bucket = min(BUCKET, parameters + parameters % 2)
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm if stage else 0.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_param_persistence_threshold": UNDIVIDED,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
