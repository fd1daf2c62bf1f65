"""What a preset may say: the configuration classes of the other folders, composed into one."""

from collections import Counter
from typing import Any, Literal

from pydantic import field_validator, model_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.evaluation.perplexity import Evaluation
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.reward_config import RewardConfig
from dreamlm.core.rl.rewards.mix import Rewards
from dreamlm.core.tokenizer import BytePair, Tokenizer
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.lengths import objections
from dreamlm.data_sources.pairs import PairData
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.prompts import PromptData
from dreamlm.data_sources.stream import CorpusStream
from dreamlm.presets.document import KeyPath
from dreamlm.presets.mistakes import Disagreement
from dreamlm.presets.paths import PLACES, empty_places


class DataConfig(Preparation.Config, CorpusStream.Config):
    """Which documents make up the corpus, and how training draws from it."""


class ModelConfig(DreamLM.Config):
    """What the model is like, and where its first weights come from."""

    init_from: str | None = None
    """Start from a trained model instead of random weights: a run or snapshot of dreamlm's, a `transformers` folder
    (Llama or Qwen3), or a model id of the hub. It decides the decoder and the tokenizer; say nothing else about them,
    but `seq_length` (a longer one extends the model), `segment_length`, `dropout`, `mask_vector`, new `modules` and
    new `vision`."""

    def build(self, vocab_size: int) -> DreamLM:
        """A model with fresh weights, which keeps no memory of `init_from`."""
        return DreamLM.Config.model_validate(self.model_dump(exclude={"init_from"})).build(vocab_size)


class RLConfig(ConfigModel):
    """Reinforcement learning: what the model is asked, what its answers earn, and how it learns from them."""

    prompts: PromptData = PromptData()
    scoring: Rewards.Config = Rewards.Config()
    copied_from: Literal["prompt", "training"] = "prompt"
    """What the creativity of an answer looks for its 4-grams in: the prompt, or the text of the training corpus too."""
    learned_from: str | None = None
    """Run or snapshot of `dreamlm rl reward`: what `scoring.learned` weighs."""
    ppo: PolicyConfig = PolicyConfig()
    pairs: PairData | None = None
    """Preferences that `dreamlm rl reward` fits a reward model to."""
    reward_model: RewardConfig = RewardConfig()


class Preset(ConfigModel):
    """Everything a run needs to know."""

    name: str
    """What runs and corpora are called after; the file's name when absent."""
    description: str = ""
    """One sentence for `dreamlm presets list`."""
    extends: str | None = None
    """A preset of the library, or a JSON file beside this one, whose values hold where this one says nothing."""
    model: ModelConfig = ModelConfig()
    tokenizer: Tokenizer.Config = BytePair()
    data: DataConfig
    train: TrainingConfig = TrainingConfig()
    eval: Evaluation.Config = Evaluation.Config()
    rl: RLConfig = RLConfig()
    generate: Sampler.Config = Sampler.Config()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name.strip() in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\"):
            raise ValueError("runs and corpora are called after it: must not be empty, '.' or '..', nor hold / or \\")
        return name

    def _disagreements(self) -> list[tuple[KeyPath, str]]:
        model, train = self.model, self.train
        about = (_about_lengths, _about_masks, _about_curriculum)
        return [
            *_about_places(self),
            *_about_sources(self.data),
            *_about_pictures(self),
            *(one for check in about for one in check(model, train)),
        ]

    @model_validator(mode="after")
    def _sections_agree(self) -> "Preset":
        if disagreements := self._disagreements():
            raise Disagreement(*disagreements)
        return self


def _about_places(preset: Preset) -> list[tuple[KeyPath, str]]:
    """An empty text would be the folder in which the command happens to run."""
    or_null = {key: "must not be empty; null means none" for key in ("init_from", "learned_from")}
    found = empty_places(preset.model_dump(mode="json"))
    return [(path, or_null.get(str(path[-1]), "must not be empty")) for path in found]


def _about_sources(data: DataConfig) -> list[tuple[KeyPath, str]]:
    names = [source.source_name for source in data.sources]
    objections: list[tuple[KeyPath, str]] = [
        (("data", "sources"), f"{times} sources are called {name!r}; give them a name of their own")
        for name, times in Counter(names).items()
        if times > 1
    ]
    weights = data.source_weights
    if isinstance(weights, list) and len(weights) != len(names):
        what = f"has {len(weights)} weights for {len(names)} sources"
        objections.append((("data", "source_weights"), what))
    if isinstance(weights, dict):
        listed = ", ".join(names)
        for name in weights.keys() - set(names):
            objections.append((("data", "source_weights", name), f"is no source; sources: {listed}"))
        if missing := [name for name in names if name not in weights]:
            objections.append((("data", "source_weights"), f"has no weight for {', '.join(missing)}"))
    return objections


def _about_lengths(model: ModelConfig, train: TrainingConfig) -> list[tuple[KeyPath, str]]:
    if model.init_from is not None and "seq_length" not in model.model_fields_set:
        return []  # its windows are not known before the model is read
    segment_length = model.segment if model.modules else None
    return [
        (("train", "lengths", number, "length"), what)
        for number, what in objections(train.lengths, model.seq_length, segment_length, model.block)
    ]


def _about_masks(model: ModelConfig, train: TrainingConfig) -> list[tuple[KeyPath, str]]:
    if model.init_from is not None and "mask_vector" not in model.model_fields_set:
        return []  # the model to start from may have one
    if train.augmentation is None or not train.augmentation.token_dropout or model.masks:
        return []
    what = "replaces tokens by a mask vector, which a causal model has with model.mask_vector=true; 0 does without"
    return [(("train", "augmentation", "token_dropout"), what)]


def _about_pictures(preset: Preset) -> list[tuple[KeyPath, str]]:
    model, data, train = preset.model, preset.data, preset.train
    if model.vision is None:
        if train.picture_augmentation is None or (model.init_from and "vision" not in model.model_fields_set):
            return []  # the model to start from may take pictures
        return [(("train", "picture_augmentation"), "disturbs pictures, which this model does not take: model.vision")]
    if model.vision.use_contrastive_loss and data.packing == "concat":
        what = "must be 'document': with 'concat' nobody can tell where a picture's caption ends, to compare the two"
        return [(("data", "packing"), what)]
    return []


def _about_curriculum(model: ModelConfig, train: TrainingConfig) -> list[tuple[KeyPath, str]]:
    if not train.curriculum:
        return []
    if not model.has_stages:
        if model.init_from is not None and not {"modules", "vision"} <= model.model_fields_set:
            return []  # the model to start from may have what changes
        kinds = ", ".join(one.type for one in model.modules) or "none"
        what = (
            f"changes nothing in this model: a module like dreaming has stages, not those of model.modules ({kinds}), "
            "and so has model.vision, which is null"
        )
        return [(("train", "curriculum"), what)]
    return [
        (("train", "curriculum", number, setting), what)
        for number, stage in enumerate(train.curriculum)
        for setting, what in model.objections(stage.settings)
    ]


def published_schema() -> dict[str, Any]:
    """The JSON Schema of a preset file, for editors and for `dreamlm presets schema`."""
    schema = Preset.model_json_schema()
    schema["required"] = [key for key in schema["required"] if key != "name"]
    schema["properties"]["$schema"] = {"type": "string", "description": "Where an editor finds this schema."}
    # A parent named by `extends` may bring what is required here.
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["extends"]}]
    published: dict[str, Any] = _with_full_places(_with_bare_types(schema, schema["$defs"]))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **published}


def _with_bare_types(node: Any, definitions: dict[str, Any]) -> Any:
    """Say what a choice may be written as: an object whose type may come from a parent or be the default, or, where all
    of its keys have defaults, the bare name of a type."""
    if isinstance(node, list):
        return [_with_bare_types(inner, definitions) for inner in node]
    if not isinstance(node, dict):
        return node
    node = {key: _with_bare_types(inner, definitions) for key, inner in node.items()}
    if "discriminator" not in node or "oneOf" not in node:
        return node
    members = node["discriminator"]["mapping"]
    bare = [name for name, place in members.items() if not definitions[place.removeprefix("#/$defs/")].get("required")]
    del node["discriminator"]
    choice = {"anyOf": node.pop("oneOf")}
    return {**node, "anyOf": [choice, {"type": "string", "enum": bare}]} if bare else {**node, **choice}


def _with_full_places(node: Any, inside: bool = False) -> Any:
    """Say that the texts of keys in `PLACES` are not empty; `inside`: the node describes the value of such a key."""
    if isinstance(node, list):
        return [_with_full_places(inner, inside) for inner in node]
    if not isinstance(node, dict):
        return node
    text = {"minLength": 1} if inside and node.get("type") == "string" else {}
    return {**text, **{key: _with_full_places(inner, inside or key in PLACES) for key, inner in node.items()}}
