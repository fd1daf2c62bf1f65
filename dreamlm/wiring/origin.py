"""`model.init_from`: a run that starts from the weights of a trained model instead of random ones.

1. `completed` reads the model's configuration and fills in what the preset leaves open; what it says otherwise is
   a mistake. From here on the preset is whole, and the run remembers it so.
2. `Origin.weights` gives the tensors when the model is built, once: a run that goes on has its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlm.checkpoints.convert.stock import check_weights, read_decoder, read_weights
from dreamlm.checkpoints.verification import verify
from dreamlm.core.errors import CheckpointError, Mistake, PresetError, UserMistake
from dreamlm.core.home import expanded
from dreamlm.core.hub import from_hub
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.extension import extended
from dreamlm.core.nn.positions.learned import Learned
from dreamlm.core.nn.vision.clip import Clip
from dreamlm.core.tokenizer import Pretrained, Tokenizer
from dreamlm.presets.difference import leaves
from dreamlm.presets.layers import merge
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import snapshot_folder

OWN = ("dropout", "mask_vector", "modules", "segment_length", "seq_length", "stage", "vision")
"""What a preset says about the model whatever it starts from: how it is trained, and what is added to it."""
_ADDED = {"cognition.": "modules", "mask_vector": "masks", "vision.": "vision"}
"""How the names of weights begin that the origin need not have, and which of its keys says that it has them."""
_LEAVE_OUT = "leave it out, here and in the presets that this one extends"
_FILES = ["*.json", "*.safetensors"]


@dataclass(frozen=True)
class Origin:
    """A trained model to start from."""

    name: str
    """As the preset calls it."""
    folder: Path
    """Where its files lie."""
    config: DreamLM.Config

    @classmethod
    def open(cls, name: str) -> "Origin":
        """A model folder of transformers, a run or a snapshot of dreamlm's, or a model id of the hub.

        Raises: UserMistake when there is no such model, a decoder cannot express it, or its tokenizer is not its own;
        CheckpointError for damage.
        """
        folder = _folder(name)
        ours = (folder / "manifest.json").exists()
        if ours:
            verify(folder)
        origin = cls(name, folder, read_decoder(folder))
        if not ours:
            origin._require_vectors(check_weights(folder, origin.config))
        return origin

    @property
    def tokenizer(self) -> Pretrained:
        return Pretrained(path=str(self.folder) if expanded(self.name).exists() else self.name)

    def _require_vectors(self, rows: int) -> None:
        """That every token is one of so many, but the special ones, which dreamlm adds where they are missing."""
        tokenizer = Tokenizer.pretrained(self.tokenizer)
        own = {tokenizer.end_of_document_id, tokenizer.padding_id}
        ids = set(tokenizer.backend.get_vocab(with_added_tokens=True).values())
        if lacking := sorted(id for id in ids - own if id >= rows):
            text = tokenizer.backend.id_to_token(lacking[0])
            raise UserMistake(
                f"the tokenizer has {tokenizer.vocab_size:,} tokens, and the model knows {rows:,}: "
                f"there is no vector for {len(lacking):,}, the first of them {text!r}",
                where=self.name,
                hint="put the tokenizer it was trained with into the folder; or, in transformers, "
                "model.resize_token_embeddings(len(tokenizer)), and train the new vectors",
            )

    def weights(self, config: DreamLM.Config, vocab_size: int) -> dict[str, Tensor]:
        """By dreamlm's names, for a decoder of `config`, which may be made for longer windows than the origin.

        A token that the tokenizer adds gets the mean of all others: nearly always unlikely, never the likeliest.
        Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models".
        Raises: CheckpointError, UserMistake as the files deserve.
        """
        weights = read_weights(self.folder, self.config)
        if config.seq_length > self.config.seq_length:
            _, weights = extended(self.config, weights, config.seq_length)
        for name in {"embedding.weight", "head.weight"} & weights.keys():
            weights[name] = _with_rows(weights[name], vocab_size)
        return weights


def completed(preset: Preset, before: Mapping[str, Any] | None = None) -> Preset:
    """The preset with the decoder and the tokenizer of `model.init_from`, where it names one and leaves them open.

    before: the resolved preset of the run that goes on. It knows what the model it once started from was like, so
    that model need not be there any more. A vision tower that `model.vision` names is completed likewise.
    Raises: PresetError listing what the preset says otherwise; UserMistake, CheckpointError about the model.
    """
    preset = _with_tower(preset, before)
    name = preset.model.init_from
    if name is None or (before is not None and not _same(name, before["model"].get("init_from"))):
        return preset
    said = preset.model_dump(mode="json", exclude_unset=True)
    if before is None:
        origin = Origin.open(name)
        if mistakes := [*_conflicts(preset, said, origin)]:
            raise PresetError(preset.name, mistakes)
        before = {"model": _decided(origin, preset.model), "tokenizer": origin.tokenizer.model_dump(mode="json")}
    model = {**merge(before["model"], said["model"]), "init_from": before["model"].get("init_from", name)}
    return resolve_values({"tokenizer": before["tokenizer"], **said, "model": model}, preset.name)


def _with_tower(preset: Preset, before: Mapping[str, Any] | None) -> Preset:
    """With the architecture of a CLIP filled in: as the run that goes on knows it, or as its folder says."""
    vision = preset.model.vision
    if not isinstance(vision, Clip.Config):
        return preset
    known = (before or {"model": {}})["model"].get("vision") or {}
    if known.get("type") == vision.type and _same(vision.path, known["path"]):
        remembered = {key: known[key] for key in ("path", "image_size", "architecture", "mean", "std")}
        vision = Clip.Config.model_validate({**vision.model_dump(), **remembered})
    model = preset.model.model_copy(update={"vision": vision.completed()})
    return preset.model_copy(update={"model": model})


def _same(name: str, before: str | None) -> bool:
    """Whether two names mean one model; a relative one is made absolute only while its folder is there."""
    if before is None:
        return False
    parts = Path(name).parts
    return name == before or expanded(before).parts[-len(parts) :] == parts


def initial_model(preset: Preset, vocab_size: int) -> DreamLM:
    """The model of a run that begins: with the weights of `model.init_from`, or else with random ones.

    It may know more tokens than the tokenizer's `vocab_size`, if its origin did.
    Raises: CheckpointError when the origin's weights are not those of its configuration; as `Origin` otherwise.
    """
    if preset.model.init_from is None:
        return _with_tower_weights(preset.model.build(vocab_size))
    origin = Origin.open(preset.model.init_from)
    weights = origin.weights(preset.model, vocab_size)
    model = preset.model.build(len(weights["embedding.weight"]) if "embedding.weight" in weights else vocab_size)
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    added = tuple(name for name, theirs in _ADDED.items() if not getattr(origin.config, theirs))
    expected = {name: shape for name, shape in expected.items() if not name.startswith(added)}
    found = {name: weight.shape for name, weight in weights.items()}
    if different := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        what = f"the weights to start from are not those of their configuration: {', '.join(different)}"
        raise CheckpointError(what, where=str(origin.folder))
    model.load_state_dict(weights, strict=False)
    return model if origin.config.vision else _with_tower_weights(model)


def _with_tower_weights(model: DreamLM) -> DreamLM:
    """With the weights of the CLIP that `model.vision` names."""
    config, encoder = model.config.vision, getattr(model.vision, "encoder", None)
    if isinstance(config, Clip.Config) and isinstance(encoder, Clip):
        encoder.load(config.path)
    return model


def _decided(origin: Origin, asked: DreamLM.Config) -> dict[str, Any]:
    """What the origin decides about the decoder, for the windows that were asked for."""
    config = origin.config
    if "seq_length" in asked.model_fields_set and asked.seq_length > config.seq_length:
        config, _ = extended(config, {}, asked.seq_length)
    sizes = {"num_kv_heads": config.kv_heads, "intermediate_size": config.feed_forward_size}
    return config.model_copy(update={**sizes, "diffusion": config.sized_diffusion}).model_dump(mode="json")


def _conflicts(preset: Preset, said: Mapping[str, Any], origin: Origin) -> Iterator[Mistake]:
    """Everything that the preset itself says and the origin has otherwise."""
    decided = _decided(origin, preset.model)
    theirs = {**decided, **dict(leaves(decided))}
    own = {"init_from", *OWN} - {key for key in ("mask_vector", "modules", "vision") if getattr(origin.config, key)}
    for key, value in leaves(said["model"]):
        if key.partition(".")[0] not in own and theirs.get(key) != value:
            message = f"is {value!r} here, {theirs.get(key)!r} in the model to start from"
            yield Mistake(f"model.{key}", message, _LEAVE_OUT)
    most = origin.config.seq_length
    length = said["model"].get("seq_length", most)
    if isinstance(origin.config.positions, Learned.Config) and length < most:
        yield Mistake("model.seq_length", f"is {length} here, but the model to start from learned {most} positions")
    if "tokenizer" not in said:
        return
    if not isinstance(preset.tokenizer, Pretrained):
        what = f"is learned anew here, but the weights of {origin.name} know the tokens of its own"
        yield Mistake("tokenizer", what, _LEAVE_OUT)
    elif Tokenizer.pretrained(preset.tokenizer).digest != Tokenizer.pretrained(origin.tokenizer).digest:
        what = f"is that of {preset.tokenizer.path} here, which is another than that of {origin.name}"
        yield Mistake("tokenizer.path", what, _LEAVE_OUT)


def _with_rows(weight_VD: Tensor, rows: int) -> Tensor:
    more = rows - len(weight_VD)
    if more <= 0:
        return weight_VD
    mean_D = weight_VD.float().mean(dim=0).to(weight_VD.dtype)
    return torch.cat([weight_VD, mean_D.expand(more, -1)])


def _folder(name: str) -> Path:
    path = expanded(name)
    if (path / "checkpoints").is_dir():
        return snapshot_folder(path)
    if path.is_dir():
        return path
    if path.is_file():
        hint = "dreamlm ckpt import makes a run of a .pth file"
        raise UserMistake("a model to start from is a folder, this is a file", where=name, hint=hint)
    return _downloaded(name)


def _downloaded(model_id: str) -> Path:
    """The files of a model on the hub, from its cache where they are there already."""
    from huggingface_hub import snapshot_download  # half a second of import time

    def load(local_files_only: bool) -> Path:
        return Path(snapshot_download(model_id, allow_patterns=_FILES, local_files_only=local_files_only))

    try:
        return from_hub(model_id, load)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserMistake(
            f"no model to start from could be read: {reason}",
            where=f"model.init_from={model_id}",
            hint="give a folder on this machine, or a model id of the hub",
        ) from error
