"""Error texts: exact, because people act on them. A small schema stands in for the real one."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BeforeValidator, Field, model_validator

from dreamlm.core.config import ConfigModel
from dreamlm.presets.document import JsonDocument
from dreamlm.presets.layers import Layers
from dreamlm.presets.mistakes import Disagreement, check


class AdamW(ConfigModel):
    type: Literal["adamw"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)


class Muon(ConfigModel):
    type: Literal["muon"] = "muon"
    learning_rate: float = Field(2e-2, gt=0, le=1)
    momentum: float = 0.9


Optimizer = Annotated[
    Annotated[AdamW | Muon, Field(discriminator="type")],
    BeforeValidator(lambda value: {"type": value} if isinstance(value, str) else value),
]


class Hub(ConfigModel):
    type: Literal["hf"] = "hf"
    dataset: str


class Model(ConfigModel):
    hidden_size: int = Field(256, ge=8)
    num_heads: int = Field(4, ge=1)
    seq_length: int = Field(256, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> "Model":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        return self


class Train(ConfigModel):
    optimizer: Optimizer = AdamW()
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    budget: int | Literal["auto"] = "auto"
    compile: bool = False
    warmup_steps: int = Field(100, ge=0)


class Data(ConfigModel):
    sources: list[Hub] = Field([Hub(dataset="a")], min_length=1)
    weights: dict[str, float] = Field(default_factory=dict)


class Schema(ConfigModel):
    name: str
    model: Model = Model()
    train: Train = Train()
    data: Data = Data()

    @model_validator(mode="after")
    def _agree(self) -> "Schema":
        if self.train.warmup_steps > 500:
            raise Disagreement((("train", "warmup_steps"), "is longer than the training"))
        return self


def complaints(values: dict[str, Any]) -> list[str]:
    _, mistakes = check(Schema, Layers().with_document(JsonDocument({"name": "x"} | values, {}), "x.json"))
    return [f"{mistake.key}: {mistake.message}" for mistake in mistakes]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"name": 3}, "name: must be text, not 3"),
        ({"model": 3}, "model: must be an object { ... }, not 3"),
        ({"model": {"hidden_size": "big"}}, 'model.hidden_size: must be a whole number, not "big"'),
        ({"model": {"hidden_size": 2.5}}, "model.hidden_size: must be a whole number, not 2.5"),
        ({"model": {"hidden_size": None}}, "model.hidden_size: must be a whole number, not null"),
        ({"model": {"hidden_size": 4}}, "model.hidden_size: must be at least 8, not 4"),
        ({"train": {"compile": "perhaps"}}, 'train.compile: must be true or false, not "perhaps"'),
        (
            {"train": {"precision": "bf17"}},
            "train.precision: must be 'auto', 'bf16' or 'fp32', not \"bf17\"; did you mean 'bf16'?",
        ),
        ({"train": {"budget": "x"}}, "train.budget: must be a whole number or 'auto', not \"x\""),
        (
            {"train": {"optimizer": "moun"}},
            "train.optimizer: must be one of 'adamw', 'muon', not \"moun\"; did you mean 'muon'?",
        ),
        (
            {"train": {"optimizer": {"type": "muon", "betas": [1, 2]}}},
            "train.optimizer.betas: unknown key for the type chosen here; its keys: type, learning_rate, momentum",
        ),
        (
            {"train": {"optimizer": {"type": "muon", "learning_rate": 2}}},
            "train.optimizer.learning_rate: must be at most 1.0, not 2",
        ),
        (
            {"train": {"learning_rate": 1}},
            "train.learning_rate: unknown key; did you mean train.optimizer.learning_rate?",
        ),
        ({"train": {"lr": 1}}, "train.lr: unknown key; did you mean train.optimizer.learning_rate?"),
        ({"train": {"seq_length": 1}}, "train.seq_length: unknown key; did you mean model.seq_length?"),
        ({"model": {"hiden_size": 1}}, "model.hiden_size: unknown key; did you mean model.hidden_size?"),
        ({"trian": {}}, "trian: unknown key; did you mean train?"),
        ({"xyzzy": 1}, "xyzzy: unknown key"),
        ({"data": {"sources": {}}}, "data.sources: must be a list [ ... ], not {}"),
        ({"data": {"sources": []}}, "data.sources: must have at least 1 elements, not []"),
        ({"data": {"sources": [{"type": "hf"}]}}, "data.sources.0.dataset: is missing, and has no default"),
        (
            {"data": {"sources": [{"dataset": "a", "dataste": 1}]}},
            "data.sources.0.dataste: unknown key; did you mean data.sources.0.dataset?",
        ),
        ({"data": {"weights": {"a": "heavy"}}}, 'data.weights.a: must be a number, not "heavy"'),
        ({"model": {"hidden_size": 100, "num_heads": 3}}, "model: hidden_size 100 must be a multiple of num_heads 3"),
        ({"train": {"warmup_steps": 501}}, "train.warmup_steps: is longer than the training"),
    ],
)
def test_one_mistake_is_one_plain_sentence(values: dict[str, Any], complaint: str) -> None:
    assert complaints(values) == [complaint]


def test_checks_across_keys_are_reported_beside_mistakes_in_other_keys() -> None:
    assert complaints({"model": {"hidden_size": 100, "num_heads": 3, "x": 1}, "train": {"warmup_steps": 501}}) == [
        "model.x: unknown key",
        "model: hidden_size 100 must be a multiple of num_heads 3",
        "train.warmup_steps: is longer than the training",
    ]


def test_a_key_that_is_missing_is_told_once_whatever_else_is_wrong() -> None:
    values = {"model": {"hidden_size": 4}, "train": {"precision": "bf17", "warmup_steps": 501}}
    _, mistakes = check(Schema, Layers().with_document(JsonDocument(values, {}), "x.json"))
    assert sorted(mistake.key for mistake in mistakes) == ["model.hidden_size", "name", "train.precision"]


def test_a_bad_key_does_not_cause_complaints_about_its_default() -> None:
    assert complaints({"model": {"hidden_size": 100, "num_heads": "three"}}) == [
        'model.num_heads: must be a whole number, not "three"'
    ]
    assert complaints({"data": {"sources": [{}]}}) == ["data.sources.0.dataset: is missing, and has no default"]


def test_good_values_give_the_model() -> None:
    model, mistakes = check(Schema, Layers({"name": "x", "train": {"optimizer": "muon"}}))
    assert not mistakes
    assert model is not None
    assert model.train.optimizer == Muon()


def test_a_mistake_names_the_line_it_stands_on() -> None:
    document = JsonDocument({"name": "x", "model": {"hidden_size": 1}}, {("model",): 3, ("model", "hidden_size"): 4})
    _, (mistake,) = check(Schema, Layers().with_document(document, "x.json"))
    assert mistake.hint == "x.json:4"
