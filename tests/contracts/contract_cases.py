"""Who must keep the contracts: found in the unions, literals and presets, so that a new member is a new case by itself.

A case is the small plain decoder with one thing changed: a part, a choice within a part, a module, or a preset's shape.
Where a model has a mask vector to train, the objective disturbs every row, so that the contracts hold augmentation too.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from contract_subject import LENGTH, VOCAB, Subject
from torch import nn

from dreamlm.core.config import ConfigModel
from dreamlm.core.modules import AnyModule
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.augmentation import UNTOUCHED, Augmentation, Disturbed
from dreamlm.core.objectives.choose import objective_of
from dreamlm.presets import library
from dreamlm.presets.resolve import resolve

SIZES: Mapping[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "seq_length": LENGTH}
SEGMENT = 4
EYES: Mapping[str, Any] = {"num_prefix_tokens": 2, "token_mask_prob": 0.5}
TOWER: Mapping[str, Any] = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 8, "patch_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
}
MODULE_SIZES: Mapping[str, Mapping[str, Any]] = {
    "clip": {**EYES, "image_size": 8, "architecture": TOWER},
    "dreaming": {
        **{"num_dream_sequences": 2, "dream_length": 2, "graph_reasoning_hops": 2},
        **{"num_experts": 3, "expert_num_layers": 1, "expert_num_heads": 4, "graph_num_heads": 2},
    },
    "lite": {**EYES, "image_size": 16, "width": 16},
    "thought_stack": {"thought_dims": (2, 3, 2), "stack_size": 2},
    "vit": {**EYES, "image_size": 14, "width": 16, "num_layers": 1, "num_heads": 2},
}
"""Of a module or an encoder, by its type, whose defaults are too large for a test."""
NUMBERS: Mapping[str, tuple[Any, ...]] = {
    "num_kv_heads": (2,),
    "head_dim": (12,),
    "logit_soft_cap": (2.0,),
    "dropout": (0.2,),
    "dream_size": (16,),
    "moe_noise_std": (0.0,),
    "moe_top_k": (1,),
    "top_k": (1,),
    "noise_std": (0.0,),
    "num_edge_types": (1,),
    "num_vectors": (1,),
    "stack_size": (1,),
    "block_size": (4,),
}
"""Fields, wherever they are, with which other numbers are other paths through the code."""
SIZES_ONLY = frozenset({*SIZES, "intermediate_size", "segment_length", "norm_epsilon", "stage"})
"""Fields of the decoder with which another number is only another number; contract 9 goes to their smallest."""
REQUIRED: Mapping[str, Any] = {"factor": 4.0, "original_length": 8, "path": "clip"}
"""Values of fields without a default, wherever they are."""
Case = tuple[str, Subject]


def cases() -> Mapping[str, Subject]:
    """Every case by its name; cases with one configuration are one, by all their names."""
    plain = DreamLM.Config.model_validate(SIZES)
    names: dict[DreamLM.Config, list[str]] = {}
    subjects: dict[DreamLM.Config, Subject] = {}
    modules = [*_modules(plain), *_modules(plain, diffusion="block_diffusion"), *_masked(plain), *_staged(plain)]
    kinds = [*_trunks(plain), *modules, *_presets()]
    for name, subject in [("plain", Subject(plain)), *kinds]:
        names.setdefault(subject.config, []).append(name)
        subjects.setdefault(subject.config, subject)
    return {", ".join(names[config]): subject for config, subject in subjects.items()}


def smoothed() -> Mapping[str, Subject]:
    """Objectives that ask for something of every token, not of the true one alone."""
    trunks = {"": {}, " in block_diffusion": {"diffusion": "block_diffusion"}}
    smooth = partial(_smoothed, share=0.1)
    return {
        f"label smoothing{within}": Subject(DreamLM.Config.model_validate({**SIZES, **trunk}), objective=smooth)
        for within, trunk in trunks.items()
    }


def _smoothed(model: DreamLM, label_smoothing: float, share: float) -> nn.Module:
    return _objective(model, share, UNTOUCHED)


def _trunks(plain: DreamLM.Config) -> Iterator[Case]:
    for name, field in DreamLM.Config.model_fields.items():
        for label, value in _values(name, field.annotation):
            config = DreamLM.Config.model_validate({**SIZES, name: value})
            if config != plain:
                yield f"{name}={label}", _subject(config, plain)


def _subject(config: DreamLM.Config, baseline: DreamLM.Config | None = None) -> Subject:
    return Subject(config, baseline, augmented if config.mask_vector else partial(_objective, augmentation=UNTOUCHED))


def augmented(model: DreamLM, label_smoothing: float) -> nn.Module:
    """The model's objective with every row disturbed in all ways."""
    disturbed = Disturbed.Config(probability=1.0, thought_noise=0.1).build(model, VOCAB, end_id=0, padding_id=1)
    return _objective(model, label_smoothing, disturbed)


def _objective(model: DreamLM, label_smoothing: float, augmentation: Augmentation) -> nn.Module:
    return objective_of(model, label_smoothing, 0, augmentation)


def _modules(plain: DreamLM.Config, **trunk: str) -> Iterator[Case]:
    within = "".join(f" in {value}" for value in trunk.values())
    for label, value in _choices(AnyModule):
        yield f"{label}{within}", _with_modules(plain, [value], trunk)
    for kind in _members(AnyModule):
        smallest = {"type": _type(kind), **_small(kind)}
        two = [smallest, {**smallest, "after": plain.num_layers - 1}]
        yield f"two {_type(kind)}{within}", _with_modules(plain, two, trunk)


def _with_modules(plain: DreamLM.Config, modules: list[Mapping[str, Any]], trunk: Mapping[str, Any]) -> Subject:
    config = DreamLM.Config.model_validate({**SIZES, **trunk, "segment_length": SEGMENT, "modules": modules})
    return _subject(config, plain)


def _masked(plain: DreamLM.Config) -> Iterator[Case]:
    """What augmentation does to a module's thoughts, and to the clean path of a diffusion model."""
    thoughts = [{"type": "thought_stack", **MODULE_SIZES["thought_stack"]}]
    for within in ({}, {"diffusion": "block_diffusion"}):
        trunk = {**within, "mask_vector": True}
        name = "".join(f" in {value}" for value in within.values())
        yield f"thought_stack{name} augmented", _with_modules(plain, thoughts, trunk)


def _staged(plain: DreamLM.Config) -> Iterator[Case]:
    """Modules in a stage that asks for other sizes than their own."""
    within = {"stage": {"dream_length": 2, "num_dream_sequences": 3, "graph_reasoning_hops": 1}}
    for kind in (one for one in _members(AnyModule) if one.has_stages):
        smallest = {"type": _type(kind), **_small(kind)}
        yield f"{_type(kind)} in a stage", _with_modules(plain, [smallest], within)


def _presets() -> Iterator[Case]:
    for name in library.names():
        shape = resolve(name).model
        heads = None if shape.num_kv_heads is None else max(1, 4 * shape.num_kv_heads // shape.num_heads)
        segments = {"segment_length": SEGMENT} if shape.modules else {"segment_length": None}
        sizes = {**SIZES, **segments, "num_kv_heads": heads, "intermediate_size": None}
        modules = tuple(_shrunk(one) for one in shape.modules)
        kept = {field: getattr(shape, field) for field in DreamLM.Config.model_fields}
        if shape.diffusion is not None and shape.diffusion.block_size is not None:
            sizes["diffusion"] = shape.diffusion.model_copy(update={"block_size": SEGMENT})
        if shape.vision is not None:
            sizes["vision"] = shape.vision.model_copy(update=_small(type(shape.vision)))
        yield f"preset {name}", _subject(DreamLM.Config.model_validate({**kept, **sizes, "modules": modules}))


def _shrunk(module: Any) -> Any:
    after = None if module.after is None else min(module.after, SIZES["num_layers"] - 1)
    return module.model_copy(update={**_small(type(module)), "after": after})


def _values(name: str, annotation: Any) -> Iterator[tuple[str, Any]]:
    return ((str(value), value) for value in NUMBERS[name]) if name in NUMBERS else _choices(annotation)


def _choices(annotation: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is told apart by a word: literals, switches, and members of unions with choices of their own."""
    for member in _members(annotation):
        if get_origin(member) is Literal:
            yield from ((str(value), value) for value in get_args(member))
        elif member is bool:
            yield from (("off", False), ("on", True))
        elif isinstance(member, type) and issubclass(member, ConfigModel) and "type" in member.model_fields:
            yield from _configurations(member)


def _configurations(kind: type[ConfigModel]) -> Iterator[tuple[str, Any]]:
    fields = {name: field for name, field in kind.model_fields.items() if name != "type"}
    given = {name: REQUIRED[name] for name, field in fields.items() if field.is_required()}
    base = {"type": _type(kind), **given, **_small(kind)}
    yield _type(kind), base
    for name, field in fields.items():
        for label, value in _values(name, field.annotation):
            if value != field.default:
                yield f"{_type(kind)}.{name}={label}", {**base, name: value}


def _members(annotation: Any) -> list[Any]:
    """What a union, annotated or not, is made of."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for one in get_args(annotation) for member in _members(one)]
    return [annotation]


def _type(kind: type[ConfigModel]) -> str:
    return str(kind.model_fields["type"].default)


def _small(kind: type[ConfigModel]) -> Mapping[str, Any]:
    return MODULE_SIZES.get(_type(kind), {})
