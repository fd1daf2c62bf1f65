"""A model extended to longer windows is the same model where it was trained, and an ordinary one afterwards."""

import pytest
import torch

from dreamlm.core.errors import RangeError
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.extension import TABLE, extended
from dreamlm.core.objectives.causal import CausalObjective

KINDS = ["alibi", "learned", "none", "rope"]


def trained(positions: object, **options: object) -> DreamLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "seq_length": 16, "positions": positions}
    return DreamLM.Config.model_validate({**sizes, **options}).build(50)


def longer(model: DreamLM, length: int, layers: object = None) -> DreamLM:
    config, weights = extended(model.config, model.state_dict(), length, layers)  # type: ignore[arg-type]
    result = config.build(model.vocab_size)
    result.load_state_dict(weights)
    return result


def hidden(model: DreamLM, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, torch.zeros_like(ids), model.start(len(ids)), boundaries=False).hidden


def tokens(length: int) -> torch.Tensor:
    return torch.randint(0, 50, (4, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_model_reads_trains_and_can_be_extended_again(kind: str) -> None:
    model = longer(trained(kind), 64)
    assert model.config.seq_length == 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids, found = tokens(65), []
    for _ in range(8):
        losses = CausalObjective(model, 0.0)(ids, torch.zeros_like(ids), False)
        loss = losses.objectives["token"] / losses.tokens
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    assert found[-1] < found[0] - 0.2
    # What is saved is the configuration and the weights: they bring the model back, and can be extended once more.
    back = DreamLM.Config.model_validate_json(model.config.model_dump_json()).build(50)
    back.load_state_dict(model.state_dict())
    assert torch.equal(hidden(back, tokens(64)), hidden(model, tokens(64)))
    assert hidden(longer(back, 100), tokens(100)).isfinite().all()


@pytest.mark.parametrize("kind", ["alibi", "none"])
def test_where_nothing_is_rescaled_old_windows_give_the_old_vectors(kind: str) -> None:
    model = trained(kind)
    assert torch.equal(hidden(longer(model, 64), tokens(16)), hidden(model, tokens(16)))


def test_a_stretched_table_changes_the_table_alone() -> None:
    model = trained("learned")
    before, after = model.state_dict(), longer(model, 64).state_dict()
    assert [name for name in before if before[name].shape != after[name].shape] == [TABLE]
    assert all(torch.equal(before[name], after[name]) for name in before if name != TABLE)


def test_rotary_frequencies_get_yarn_from_the_trained_length_to_the_new_one() -> None:
    config = longer(trained("rope"), 64, "lower_half").config
    assert config.positions.model_dump() == {
        "type": "rope",
        "theta": 10_000.0,
        "scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_length": 16,
            "layers": "lower_half",
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        },
        "scaling_elsewhere": (),
    }


LINEAR = {"type": "linear", "factor": 2}
YARN = {"type": "yarn", "factor": 2, "original_length": 8}


@pytest.mark.parametrize("scaling", ["none", LINEAR, YARN], ids=str)
def test_no_layer_at_all_is_a_choice_too_and_reads_on_as_the_model_is(scaling: object) -> None:
    model = trained({"scaling": scaling})
    whole, none = longer(model, 64), longer(model, 64, ())
    assert none.config.positions.scaling.layers == ()
    as_it_is = DreamLM.Config.model_validate(model.config.model_dump() | {"seq_length": 64}).build(50)
    as_it_is.load_state_dict(model.state_dict())
    assert torch.equal(hidden(none, tokens(64)), hidden(as_it_is, tokens(64)))
    assert torch.equal(hidden(longer(none, 128), tokens(64)), hidden(as_it_is, tokens(64)))
    assert not torch.equal(hidden(none, tokens(64)), hidden(whole, tokens(64)))


def rotations(model: DreamLM, layer: int) -> torch.Tensor:
    """What queries of ones become in a layer: frequencies and temperature in one."""
    place = model.positions.place(torch.arange(64)[None], torch.float32)
    return place.query(torch.ones(1, 1, 64, 16), layer)


@pytest.mark.parametrize("scaling", ["none", LINEAR, YARN], ids=str)
def test_layers_left_out_keep_the_rule_they_had_however_often_the_model_is_extended(scaling: object) -> None:
    model = trained({"scaling": scaling})
    whole, lower = longer(model, 32), longer(model, 32, "lower_half")
    assert all(torch.equal(rotations(lower, layer), rotations(whole, layer)) for layer in (0, 1))
    assert torch.equal(rotations(lower, 2), rotations(model, 2))
    assert not torch.equal(rotations(lower, 2), rotations(whole, 2))

    again, everywhere = longer(lower, 64, (1,)), longer(whole, 64)
    for layer, source in enumerate((whole, everywhere, model)):
        assert torch.equal(rotations(again, layer), rotations(source, layer)), layer
    again = DreamLM.Config.model_validate_json(again.config.model_dump_json()).build(50)
    for layer, source in enumerate((whole, everywhere, model)):
        assert torch.equal(rotations(again, layer), rotations(source, layer)), layer


def test_rules_that_hold_in_no_layer_any_more_are_forgotten() -> None:
    model = trained({"scaling": LINEAR})
    lower = longer(model, 32, "lower_half")
    linear = {"type": "linear", "layers": "all"}
    assert [one.model_dump() for one in lower.config.positions.scaling_elsewhere] == [{**linear, "factor": 2.0}]
    assert longer(lower, 64).config.positions.scaling_elsewhere == lower.config.positions.scaling_elsewhere
    assert longer(lower, 64, "all").config.positions.model_dump() == {
        **{"type": "rope", "theta": 10_000.0, "scaling": {**linear, "factor": 8.0}, "scaling_elsewhere": ()},
    }


def test_a_rule_of_some_layers_is_taken_further_where_it_held() -> None:
    model = trained({"scaling": {**LINEAR, "layers": (0, 2)}})
    for asked in (None, (0, 2)):
        rules = longer(model, 64, asked).config.positions.rules(3)
        assert [getattr(one, "factor", 1) for one in rules] == [8.0, 1, 8.0]
    rules = longer(model, 64, (2,)).config.positions.rules(3)
    assert [getattr(one, "factor", 1) for one in rules] == [2.0, 1, 8.0]


@pytest.mark.parametrize(
    ("one", "another"),
    [(LINEAR, {**LINEAR, "factor": 3}), (YARN, LINEAR), (LINEAR, YARN), (YARN, {**YARN, "original_length": 4})],
    ids=str,
)
def test_a_rule_that_is_no_earlier_form_of_the_other_is_left_alone(one: dict, another: dict) -> None:
    first, second = {**one, "layers": (0,)}, {**another, "layers": (1,)}
    model = trained({"scaling": first, "scaling_elsewhere": (second,)})
    before = model.config.positions.rules(3)
    for asked in (None, (0,), ()):
        after = longer(model, 64, asked).config.positions.rules(3)
        assert (after[1:], after[0] == before[0]) == (before[1:], asked == ())
    for asked in ((1,), (0, 1), "all", "lower_half"):
        with pytest.raises(RangeError, match=r"not in force(.|\n)*at: rescale_layers\nvalid: 0\n"):
            longer(model, 64, asked)


@pytest.mark.parametrize(
    ("said", "block"), [({}, 16), ({"segment_length": 8}, 8), ({"diffusion": {"block_size": 4}}, 4)], ids=str
)
def test_a_diffusion_model_keeps_the_blocks_it_was_trained_on(said: dict, block: int) -> None:
    model = longer(trained("rope", **{"diffusion": "block_diffusion", **said}), 64)
    assert (model.config.block, model.config.diffusion.block_size) == (block, block)
    assert longer(model, 128).config.block == block


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_training_changes_nothing(kind: str) -> None:
    model = trained(kind)
    config, weights = extended(model.config, model.state_dict(), 16)
    assert config == model.config
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "length", "layers", "message"),
    [
        ({}, 8, None, "windows of 16 tokens cannot be extended to 8"),
        ({"segment_length": 8}, 60, None, "segment_length 8 must divide seq_length 60"),
        ({"diffusion": "block_diffusion"}, 40, None, "block_size 16 must divide the segment of 40 tokens"),
        ({}, 64, (0, 3), "re-scaled in layer 3\nat: rescale_layers\nvalid: 0 to 2"),
        *(
            ({"positions": {"scaling": {**LINEAR, "layers": held}}}, 64, asked, "not in force")
            for held, asked in (("lower_half", "all"), ((0, 1), (1, 2)), ((0,), "lower_half"))
        ),
        ({"positions": {"scaling": {**LINEAR, "layers": ()}}}, 64, (1,), "in force in no layer"),
        *(
            ({"positions": positions}, 64, layers, f"'{positions}' cannot be re-scaled in some layers only")
            for positions, layers in (
                ("learned", (0,)),
                ("learned", ()),
                ("alibi", "lower_half"),
                ("none", "upper_half"),
            )
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(options: dict, length: int, layers: object, message: str) -> None:
    model = trained(**{"positions": "rope", **options})
    with pytest.raises(RangeError, match=message) as refused:
        extended(model.config, model.state_dict(), length, layers)  # type: ignore[arg-type]
    assert f"\nat: {'extend_max_seq_len' if layers is None else 'rescale_layers'}" in str(refused.value)
