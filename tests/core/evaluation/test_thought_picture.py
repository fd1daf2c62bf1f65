"""How thoughts evolve, by hand, and the picture of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamlm.core.evaluation.plots import save_figure
from dreamlm.core.evaluation.thought_evolution import Evolution, principal_plane
from dreamlm.core.evaluation.thought_picture import LEAST_DISTANCE, MOST_NUMBERS, EvolutionPicture, labelled

THOUGHTS = np.array([[3.0, 4.0], [0.0, 5.0], [0.0, 0.0], [1.0, 0.0]])


def evolution(thoughts: np.ndarray = THOUGHTS, opening: str = "cost $x^5 & <b>") -> Evolution:
    return Evolution.of(thoughts, stack_size=2, segment_length=4, opening=opening)


def test_the_evolution_of_a_text_by_hand() -> None:
    found = evolution().to_json()
    assert found["slot_norms"] == [[5.0, 5.0, 0.0, 1.0], [None, 5.0, 5.0, 0.0]]
    assert found["consecutive_cosine"] == [None, pytest.approx(20 / 25), None, None]
    assert found["change_per_token"] == [None, *(pytest.approx(one / 4) for one in (np.sqrt(10), 5.0, 1.0))]
    assert json.dumps(found, allow_nan=False)


def test_the_path_lies_in_the_plane_of_most_variance() -> None:
    generator = np.random.default_rng(0)
    thoughts = generator.normal(size=(30, 5)) * [1, 4, 1, 9, 1] + 3
    path, explained = principal_plane(thoughts)
    variances = np.sort(np.linalg.eigvalsh(np.cov(thoughts.T, bias=True)))[::-1]
    assert path.var(axis=0) == pytest.approx(variances[:2])
    assert explained == pytest.approx(variances[:2] / variances.sum())
    assert path.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-9)
    assert np.corrcoef(path[:, 0], thoughts[:, 3])[0, 1] > 0.9, "a direction's largest number is positive"
    assert principal_plane(thoughts[::-1])[0][::-1] == pytest.approx(path)


@pytest.mark.parametrize("thoughts", [np.ones((1, 3)), np.ones((4, 3)), np.zeros((3, 1))])
def test_thoughts_that_do_not_differ_have_a_path_that_stands_still(thoughts: np.ndarray) -> None:
    path, explained = principal_plane(thoughts)
    assert not path.any()
    assert not explained.any()


def test_the_picture_shows_the_numbers() -> None:
    one = evolution()
    norms, cosine, path, change = EvolutionPicture(one).draw().axes[:4]
    assert np.array_equal(norms.images[0].get_array().filled(np.nan), one.slot_norm_MN, equal_nan=True)
    assert np.array_equal(cosine.lines[-1].get_ydata(), one.cosine_N, equal_nan=True)
    assert path.collections[0].get_offsets().data.tolist() == one.projection_N2.tolist()
    assert [bar.get_height() for bar in change.patches] == [0.0, *one.change_per_token_N[1:]]
    for axes in (norms, cosine, path, change):
        assert axes.get_title(loc="left")
        assert axes.get_xlabel()
        assert axes.get_ylabel()


@pytest.mark.parametrize("count", [1, 2, 3, 90])
def test_any_number_of_thoughts_can_be_drawn(tmp_path: Path, count: int) -> None:
    picture = EvolutionPicture(evolution(np.random.default_rng(1).normal(size=(count, 4))))
    save_figure(picture.draw(), tmp_path / "evolution.png")
    assert (tmp_path / "evolution.png").read_bytes().startswith(b"\x89PNG")
    assert "cost $x^5 & <b>" in picture.caption


def test_numbers_beside_the_path_do_not_lie_upon_one_another() -> None:
    path = np.random.default_rng(2).normal(size=(200, 2)).cumsum(axis=0)
    chosen = labelled(path)
    assert 199 in chosen
    assert len(chosen) <= MOST_NUMBERS
    places = path[chosen] / np.ptp(path, axis=0)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(chosen))
    assert apart.min() > LEAST_DISTANCE
    assert labelled(np.zeros((5, 2))) == [4]
