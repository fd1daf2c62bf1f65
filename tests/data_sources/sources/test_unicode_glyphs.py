"""Characters with their names: real, offline, and drawn as asked."""

import itertools
from pathlib import Path

import numpy as np

from dreamlm.core.types import Document, ImageForm
from dreamlm.data_sources.sources import named_source
from dreamlm.data_sources.sources.source import SourceContext, SourceReport
from dreamlm.data_sources.sources.unicode_glyphs import UnicodeGlyphs


def first(count: int, form: ImageForm | None) -> tuple[list[Document], SourceReport]:
    report = SourceReport("glyphs")
    context = SourceContext(Path(), Path(), image_form=form)
    source = UnicodeGlyphs.Config(type="unicode_glyphs", max_documents=count).build(context)
    return list(source.documents(report)), report


def test_characters_come_in_order_with_their_names() -> None:
    documents, report = first(40, None)
    assert [one.text for one in itertools.islice(documents, 3)] == [
        "exclamation mark.",
        "quotation mark.",
        "number sign.",
    ]
    assert documents[32].text == "latin capital letter a."
    assert documents[32].input == "U+0041"
    assert report.documents == 40
    assert report.drops == {"character: no name, or no shape of its own": 1}


def test_a_picture_is_drawn_only_where_one_is_wanted_black_in_the_middle_of_white() -> None:
    assert all(one.picture is None for one in first(3, None)[0])
    documents, _ = first(60, ImageForm(32, 4))
    pictures = np.stack([one.picture for one in documents if one.picture is not None])
    assert pictures.shape == (60, 3, 32, 32)
    assert pictures.dtype == np.uint8
    assert (pictures[:, :, 0, 0] == 255).all()
    assert (pictures.min(axis=(1, 2, 3)) < 128).all()
    rows, columns = np.nonzero(pictures[32, 0] < 128)
    assert abs(rows.min() + rows.max() - 31) <= 2
    assert abs(columns.min() + columns.max() - 31) <= 2
    assert len({one.tobytes() for one in pictures}) == 60


def test_the_fingerprint_follows_the_options() -> None:
    prints = {
        named_source("unicode_glyphs").model_copy(update=changes).build(SourceContext(Path(), Path())).fingerprint()
        for changes in ({}, {"max_documents": 3}, {"name": "other"})
    }
    assert len(prints) == 2
