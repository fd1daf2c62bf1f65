"""Optimizers: AdamW for everything, or Muon for the matrices of the layers with AdamW for the rest.

A built `Optimizers` is one or two torch optimizers that move together, with their state readable by parameter name.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from dreamlm.core.config import ConfigModel, choice
from dreamlm.core.errors import ResumeMismatch

NamedParameters = list[tuple[str, nn.Parameter]]


@final
class Optimizers:
    """Torch optimizers that step together; each group's `initial_lr` is multiplied by the schedule's factor."""

    def __init__(self, parts: list[torch.optim.Optimizer], names: Mapping[Tensor, str]) -> None:
        self.parts = parts
        self._names = names
        for group in self.groups():
            group["initial_lr"] = group["lr"]

    def groups(self) -> Iterable[dict[str, Any]]:
        return (group for part in self.parts for group in part.param_groups)

    def step(self, factor: float) -> None:
        for group in self.groups():
            group["lr"] = group["initial_lr"] * factor
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def as_one(self) -> torch.optim.Optimizer:
        """The same as a single torch optimizer, for engines that drive one."""
        return _AsOne(self.parts)

    def state(self) -> dict[str, Tensor]:
        """Every state tensor as `parameter name/state name`; no copies."""
        return {
            f"{self._names[parameter]}/{key}": value
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state()` gave.  Raises: ResumeMismatch when a parameter is unknown here."""
        owners = {
            self._names[parameter]: (part, parameter)
            for part in self.parts
            for group in part.param_groups
            for parameter in group["params"]
        }
        for key, value in state.items():
            name, _, entry = key.rpartition("/")
            if name not in owners:
                raise ResumeMismatch(f"the snapshot holds optimizer state for {name!r}, which this model lacks")
            part, parameter = owners[name]
            # Fused kernels want everything beside the parameter, the step counter too.
            part.state[parameter][entry] = value.to(parameter.device, copy=True)


class _AsOne(torch.optim.Optimizer):
    """Groups of several optimizers, and a step of them all; their state stays theirs."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self._parts = parts
        self.param_groups = groups

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self._parts:
            part.step()


@final
class AdamW:
    """Adam with decoupled weight decay on matrices only.  Source: Loshchilov & Hutter 2019."""

    class Config(ConfigModel):
        type: Literal["adamw"] = "adamw"
        learning_rate: float = Field(1e-3, gt=0.0)
        betas: tuple[float, float] = (0.9, 0.95)
        epsilon: float = Field(1e-8, gt=0.0)
        weight_decay: float = Field(0.1, ge=0.0)

        def build(self, parameters: NamedParameters) -> Optimizers:
            return Optimizers([self.build_torch(parameters)], _names(parameters))

        def build_torch(self, parameters: NamedParameters) -> torch.optim.AdamW:
            """The single torch optimizer, for backends that bring their own sharding."""
            matrices = [parameter for _, parameter in parameters if parameter.ndim >= 2]
            vectors = [parameter for _, parameter in parameters if parameter.ndim < 2]
            groups = [
                {"params": matrices, "weight_decay": self.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ]
            return torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=self.learning_rate,
                betas=self.betas,
                eps=self.epsilon,
                fused=True,
            )


@final
class Muon:
    """Orthogonalised momentum for the matrices of layers and modules, AdamW for embeddings, heads and vectors.

    Source: Jordan et al. 2024; update size matched to AdamW's as in Liu et al. 2025 ("Muon is scalable").
    """

    class Config(ConfigModel):
        type: Literal["muon"] = "muon"
        learning_rate: float = Field(5e-3, gt=0.0)
        """Of the matrices, on AdamW's scale."""
        momentum: float = Field(0.95, ge=0.0, lt=1.0)
        weight_decay: float = Field(0.1, ge=0.0)
        others: AdamW.Config = AdamW.Config(learning_rate=3e-3)
        """For everything that is no such matrix."""

        def build(self, parameters: NamedParameters) -> Optimizers:
            chosen = [(name, parameter) for name, parameter in parameters if _maps_vectors(name, parameter)]
            rest = [(name, parameter) for name, parameter in parameters if not _maps_vectors(name, parameter)]
            muon = torch.optim.Muon(
                [parameter for _, parameter in chosen],
                lr=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            return Optimizers([muon, self.others.build_torch(rest)], _names(parameters))


OptimizerConfig = Annotated[
    AdamW.Config | Muon.Config,
    Field(discriminator="type"),
    choice("adamw"),
]


def _maps_vectors(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix within the stack that maps vectors to vectors, and no table of vectors."""
    return parameter.ndim == 2 and name.endswith(".weight") and ("layers." in name or "cognition." in name)


def _names(parameters: NamedParameters) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in parameters}
