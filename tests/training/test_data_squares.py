"""Single images of tokenizer recipes: partners, counts, and the split by case."""

import numpy as np
import pytest
from PIL import Image

from tests.training.tiny_runs import command, tokenizer_words
from training.config import ImageFolder
from training.data.squares import SquareImages

CASES = {"val_cases": [25, 28]}


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A data root with slices of three cases; the grey level of each is its case, and 100 more in the other folder."""
    root = tmp_path_factory.mktemp("slices")
    for folder, level in (("ct", 0), ("mri", 100)):
        (root / folder).mkdir()
        for case in (13, 25, 28):
            for number in range(2):
                pixels = np.full((32, 40), level + case, np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{case}{number:03}.png")
    return root


def levels(images, rows=slice(None)):
    return images.images[rows, 0, 0].tolist()


def squares(root, *entries):
    return SquareImages(root, [ImageFolder.model_validate(entry) for entry in entries], 32)


def test_images_stand_before_their_partners_which_point_back(slices):
    found = squares(slices, {"path": "mri"}, {"path": "ct", "partner": "mri", "weight": 2.0})
    assert found.counts == {"mri": 6, "ct": 12}
    assert levels(found) == [113, 113, 125, 125, 128, 128, 13, 13, 25, 25, 28, 28, 113, 113, 125, 125, 128, 128]
    assert found.partner.tolist() == [*range(6), *range(12, 18), *range(6, 12)]
    assert found.weights.tolist() == [1.0] * 6 + [2.0] * 12


@pytest.mark.parametrize("partner", [None, "mri"])
def test_a_case_is_on_one_side_with_all_its_images(slices, partner):
    entry = {"path": "ct", "partner": partner}
    train, val = (squares(slices, {**entry, "cases": {"part": part, **CASES}}) for part in ("train", "val"))
    assert {level % 100 for level in levels(train)} == {13}
    assert {level % 100 for level in levels(val)} == {25, 28}
    assert len(train) + len(val) == len(squares(slices, entry))
    for images in (train, val):
        assert [level % 100 for level in levels(images)] == [level % 100 for level in levels(images, images.partner)]
    assert train.counts == {"ct": len(train)}


def test_cases_of_another_folder_can_be_left_out(slices, tmp_path):
    (tmp_path / "ct").symlink_to(slices / "ct")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "25077.png").write_bytes((slices / "ct" / "25000.png").read_bytes())
    found = squares(tmp_path, {"path": "ct", "cases": {"exclude_cases_of": "val"}})
    assert levels(found) == [13, 13, 28, 28]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{path: ct, cases: {part: train}}", r"train\.0\.cases: .*either `val_cases` or `fraction`"),
        ("{path: ct, cases: {part: val, val_cases: 99}}", "ct: nothing is left of the cases 13, 25, 28: they are on"),
        (
            "{path: ct, cases: {part: val, val_cases: 13, pattern: '(p.*)'}}",
            "ct: '13000' does not fit .*`cases.pattern`",
        ),
        ("{path: ct, cases: {exclude_cases_of: pet}}", "no folder .*pet"),
        ("{path: ct, partner: pet, cases: {part: val, val_cases: 13}}", "no folder .*pet"),
    ],
)
def test_a_wrong_split_ends_the_command_with_one_line(slices, tmp_path, tiny_tokenizer, entry, message):
    words = tokenizer_words(slices, tmp_path / "run", f"train=[{entry}]", "val=[{path: ct}]")
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as ended:
        command(*words)
    assert "\n" not in str(ended.value)
    assert not (tmp_path / "run").exists()
