"""What a preset says of pictures has to fit the model that takes them, or does not."""

import pytest

from dreamlm.core.errors import PresetError
from dreamlm.presets.resolve import resolve

DISTURBED = "train.picture_augmentation={}"
LITE, SILENT_LITE = "model.vision=lite", 'model.vision={"type": "lite", "use_contrastive_loss": false}'
CONCAT = "data.packing=concat"
AUGMENTATION = ("train.picture_augmentation", "disturbs pictures, which this model does not take: model.vision")
PACKING = (
    "data.packing",
    "must be 'document': with 'concat' nobody can tell where a picture's caption ends, to compare the two",
)


@pytest.mark.parametrize(
    "sets",
    [
        [CONCAT],
        [LITE],
        [LITE, DISTURBED],
        [SILENT_LITE, DISTURBED, CONCAT],
        # The model to start from may take pictures.
        ["model.init_from=elsewhere", DISTURBED],
    ],
)
def test_what_fits_together_is_taken(sets: list[str]) -> None:
    resolve("tiny", sets)


@pytest.mark.parametrize(
    ("sets", "mistake"),
    [
        ([DISTURBED], AUGMENTATION),
        ([DISTURBED, CONCAT], AUGMENTATION),
        (["model.init_from=elsewhere", "model.vision=null", DISTURBED], AUGMENTATION),
        ([LITE, CONCAT], PACKING),
        ([LITE, DISTURBED, CONCAT, "model.init_from=elsewhere"], PACKING),
    ],
)
def test_what_does_not_is_a_mistake_by_its_key(sets: list[str], mistake: tuple[str, str]) -> None:
    with pytest.raises(PresetError) as caught:
        resolve("tiny", sets)
    assert [(one.key, one.message) for one in caught.value.mistakes] == [mistake]
