"""Recipe entries: published layouts by name, counts, lists of names, and splits by case."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import __main__ as command_line
from training.config import CaseSplit, PairFolder, Strict, load_recipe
from training.data.cases import cases_in_both, is_val_case
from training.data.folders import find_pairs
from training.data.images import DataError
from training.data.layouts import LAYOUTS
from training.data.pairs import ImagePairs

MEDICAL = Path(__file__).parents[3] / "shared" / "data" / "mif-pet"
SLICES = r"(\d+)\d{3}"


class Lists(Strict):
    train: list[PairFolder]


def write(root, folders, names):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros((32, 33), np.uint8)).save(root / folder / f"{name}.png")
    return root


def entry(**values):
    return PairFolder.model_validate(values)


COPIES = [
    (layout, split, number)
    for layout, known in LAYOUTS.items()
    for split, parts in known.splits.items()
    for number in range(len(parts.folders))
]


def file_of(place, name):
    """Where a place keeps the image of a pair, with folder names in upper case."""
    return f"{place.upper().replace('*', name) if '*' in place else f'{place.upper()}/{name}'}.png"


@pytest.mark.parametrize(("layout", "split", "number"), COPIES)
def test_every_known_copy_of_a_layout_is_found(tmp_path, layout, split, number):
    places = LAYOUTS[layout].splits[split].folders[number]
    stems = []
    for name in ("1", "2"):
        for place in places:
            path = tmp_path / "set" / file_of(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((32, 33), np.uint8)).save(path)
        stems.append((tmp_path / "set" / file_of(places[0], name)).stem)
    (tmp_path / "list.txt").write_text(f"{stems[0]}\n{stems[1]}.png\n")
    found = find_pairs(tmp_path, entry(layout=layout, root="set", split=split, names="list.txt", expect=2))
    assert found.names == stems
    for images, name in zip(found.files, ("1", "2"), strict=True):
        assert images == tuple(tmp_path / "set" / file_of(place, name) for place in places)
    assert found.label == " + ".join(f"set/{place.upper()}" for place in places)


SIDES = (
    {"oe", "over", "input_b", "*_b", "*-b", "b", "far", "source_2"},
    {"ue", "under", "input_a", "*_a", "*-a", "a", "near", "source_1"},
)
"""How exposure and focus sets call image A, over-exposed or far, and image B."""


def test_the_first_image_is_visible_or_mri_or_over_exposed_or_far():
    for name, layout in LAYOUTS.items():
        for a, b in (folders for split in layout.splits.values() for folders in split.folders):
            if name.startswith("harvard"):
                assert a.endswith("/MRI")
                assert b.endswith(f"/{name.partition('-')[2].upper()}")
            elif name in {"sice", "mefb", "realmff", "mfi-whu", "lytro", "mffw", "mffb"}:
                assert a.rpartition("/")[2].lower() in SIDES[0]
                assert b.rpartition("/")[2].lower() in SIDES[1]
            else:
                assert "vi" in a.lower()
                assert "ir" in b.lower() or "infrared" in b.lower()


def test_split_sizes_are_those_of_the_papers():
    sizes = {f"{name} {split}": s.pairs for name, layout in LAYOUTS.items() for split, s in layout.splits.items()}
    stated = {"msrs train": 1083, "m3fd paper-test": 202, "roadscene paper-val": 50, "roadscene paper-test": 152}
    assert sizes | stated | {"tno paper-test": 30} == sizes
    train = {"llvip train": 12025, "sice train": 589, "realmff all": 710, "mfi-whu tita-train": 90}
    test = {"llvip tita-test": 70, "mefb all": 100, "lytro all": 20, "mffw all": 13, "mfi-whu tita-test": 30}
    assert sizes | train | test == sizes
    assert sizes["mffb all"] == sizes["lytro all"] + sizes["mffw all"] + sizes["mfi-whu tita-test"] == 63
    assert sizes["mfi-whu all"] == sizes["mfi-whu tita-train"] + sizes["mfi-whu tita-test"]


def test_a_wrong_count_is_an_error_unless_it_is_accepted(tmp_path):
    write(tmp_path, ["MSRS/train/vi", "MSRS/train/ir"], ["1", "2", "3"])
    msrs = {"layout": "msrs", "root": "MSRS", "split": "train"}
    with pytest.raises(DataError, match=r"expected 1083 pairs in .*train/vi .*msrs.*found 3: .*`expect: 3`"):
        find_pairs(tmp_path, entry(**msrs))
    for accepted in (3, "any"):
        assert len(find_pairs(tmp_path, entry(**msrs, expect=accepted)).files) == 3
    with pytest.raises(DataError, match=r"expected 4 pairs in .*, found 3"):
        find_pairs(tmp_path, entry(**msrs, expect=4))
    with pytest.raises(DataError, match="expected 2"):
        find_pairs(tmp_path, entry(a="MSRS/train/vi", b="MSRS/train/ir", expect=2))


def test_missing_images_say_where_they_were_sought_and_where_to_get_them(tmp_path):
    write(tmp_path, ["ROAD/crop_HR_visible", "ROAD/cropinfrared"], ["1"])
    with pytest.raises(DataError, match=r"ROAD has none of crop_LR_visible \+ cropinfrared.*github\.com/hanna-xu"):
        find_pairs(tmp_path, entry(layout="roadscene", root="ROAD", split="all"))
    with pytest.raises(DataError, match=r"no folder .*elsewhere"):
        find_pairs(tmp_path, entry(layout="roadscene", root="elsewhere", split="all"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: x}", "give `a` and `b`"),
        ("{layout: msrs, split: train, a: x, b: y}", "give `a` and `b`, or `layout`"),
        ("{a: x, b: y, split: train}", "belong to `layout`"),
        ("{layout: mrss, split: train}", "no layout 'mrss'; known: msrs, m3fd"),
        ("{layout: msrs, split: val}", "msrs has no split 'val'; known: train, test"),
        ("{layout: m3fd, split: paper-test}", "does not publish the list"),
        ("{layout: mfi-whu, split: tita-train}", "does not publish the list of mfi-whu, split tita-train"),
        ("{a: x, b: y, expect: some}", "expect"),
        ("{a: x, b: y, limit: 0}", "limit"),
        ("{a: x, b: y, cases: {part: train}}", "either `val_cases` or `fraction`"),
        ("{a: x, b: y, cases: {part: test, fraction: 0.5}}", "part"),
        ("{a: x, b: y, cases: {fraction: 0.5}}", "give `part: train`"),
        ("{a: x, b: y, cases: {part: val, fraction: 1.0}}", "fraction"),
        ("{a: x, b: y, cases: {part: val, fraction: 0.5, pattern: '\\d+'}}", "one group"),
        ("{a: x, b: y, cases: {part: val, fraction: 0.5, pattern: '('}}", "no regular expression"),
    ],
)
def test_wrong_entries_are_named(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(f"train:\n  - {text}\n")
    with pytest.raises(DataError, match=message):
        load_recipe(str(tmp_path / "r.yaml"), Lists)


def test_the_record_of_an_entry_holds_what_was_given():
    assert entry(a="x", b="y").model_dump() == {"a": "x", "b": "y"}
    given = {"layout": "msrs", "split": "train", "cases": {"part": "val", "fraction": 0.5}}
    assert PairFolder.model_validate(entry(**given).model_dump()) == entry(**given)


def images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((32, 33), np.uint8)).save(root / name)


def test_marks_part_the_images_of_one_folder(tmp_path):
    images(tmp_path, "lytro-01-A.jpg", "lytro-01-b.png", "lytro-02-A.jpg", "lytro-02-B.jpg", "notes.png")
    found = find_pairs(tmp_path, entry(layout="lytro", split="all", expect=2))
    assert [(a.name, b.name) for a, b in found.files] == [
        ("lytro-01-b.png", "lytro-01-A.jpg"),
        ("lytro-02-B.jpg", "lytro-02-A.jpg"),
    ]
    assert found.label == "./*-B + ./*-A"


def test_scenes_are_named_by_their_folder(tmp_path):
    images(tmp_path, "input/Farmhouse/Farmhouse_A.png", "input/Farmhouse/FarmHouse_B.png", "input/Farmhouse/old.png")
    images(tmp_path, "input/Cave/Cave_A.jpg", "input/Cave/Cave_B.jpg")
    found = find_pairs(tmp_path, entry(layout="mefb", split="all", expect="any"))
    assert [(a.name, b.name) for a, b in found.files] == [
        ("Cave_B.jpg", "Cave_A.jpg"),
        ("FarmHouse_B.png", "Farmhouse_A.png"),
    ]


def test_marked_images_without_a_partner_and_doubles_are_named(tmp_path):
    images(tmp_path, "imageA/001_A.png", "imageB/001_B.png", "imageB/002_B.png")
    with pytest.raises(DataError, match=r"1 images have no partner, e\.g\. 002, which is only in .*/imageB/\*_B"):
        find_pairs(tmp_path, entry(layout="realmff", split="all", expect="any"))
    images(tmp_path, "imageA/002_a.png", "imageB/002_B.jpg")
    with pytest.raises(DataError, match=r"002_B\.jpg and 002_B\.png are both image _B of 002: remove one"):
        find_pairs(tmp_path, entry(layout="realmff", split="all", expect="any"))


def test_names_choose_pairs_and_limit_comes_last(tmp_path):
    write(tmp_path, ["a", "b"], "vwxyz")
    (tmp_path / "list.txt").write_text("# the paper's list\nz.jpg\n\nw\nx  # night\n")
    assert find_pairs(tmp_path, entry(a="a", b="b", names="list.txt")).names == ["w", "x", "z"]
    assert find_pairs(tmp_path, entry(a="a", b="b", names="list.txt", expect=3, limit=2)).names == ["w", "x"]
    pairs = ImagePairs(tmp_path, [entry(a="a", b="b", names="list.txt"), entry(a="a", b="b", limit=1)])
    assert pairs.names == ["w", "x", "z", "v"]
    assert pairs.counts == {"a + b": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v\nq\nr\n", "2 of 3 names .* are not in a \\+ b, e.g. q"),
        ("v\nv\n", "has 'v' twice"),
        ("# nothing\n", "holds no name"),
        (None, "list of names .*list.txt"),
    ],
)
def test_wrong_lists_are_named(tmp_path, text, message):
    write(tmp_path, ["a", "b"], "vw")
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        find_pairs(tmp_path, entry(a="a", b="b", names="list.txt"))


def slices(*cases, count=4):
    return [f"{case}{number:03}" for case in cases for number in range(count)]


def test_a_case_is_on_one_side_in_every_folder(tmp_path):
    write(tmp_path, ["ct/mri", "ct/ct"], slices(*range(1, 21)))
    write(tmp_path, ["pet/mri", "pet/pet"], slices(*range(15, 41), count=2))
    sides = {}
    for part in ("train", "val"):
        cases = {"part": part, "fraction": 0.7, "seed": 3}
        parts = [find_pairs(tmp_path, entry(a=f"{k}/mri", b=f"{k}/{k}", cases=cases)) for k in ("ct", "pet")]
        sides[part] = [name for found in parts for name in found.names]
    assert len(sides["train"]) + len(sides["val"]) == 20 * 4 + 26 * 2
    assert cases_in_both(sides["train"], sides["val"], SLICES) == []


def test_the_drawn_share_is_near_the_fraction_and_the_seed_matters():
    draws = [
        [is_val_case(str(case), CaseSplit(part="val", fraction=0.8, seed=seed)) for case in range(2000)]
        for seed in (0, 1)
    ]
    assert [np.mean(draw) for draw in draws] == pytest.approx([0.2, 0.2], abs=0.03)
    assert draws[0] != draws[1]


def test_named_cases_and_excluded_cases(tmp_path):
    write(tmp_path, ["train/mri", "train/ct"], slices(3, 25, 30))
    write(tmp_path, ["val/mri", "val/ct"], slices(25, 41, count=1))
    train = {"a": "train/mri", "b": "train/ct"}
    assert find_pairs(tmp_path, entry(**train, cases={"part": "val", "val_cases": [25, 41]})).names == slices(25)
    kept = find_pairs(tmp_path, entry(**train, cases={"part": "train", "val_cases": "25"})).names
    assert kept == sorted(slices(3, 30))
    kept = find_pairs(tmp_path, entry(**train, cases={"exclude_cases_of": "val/mri"})).names
    assert kept == sorted(slices(3, 30))
    with pytest.raises(DataError, match=r"nothing is left of the cases 3, 25, 30: they are on the train side"):
        find_pairs(tmp_path, entry(**train, cases={"part": "val", "val_cases": 99}))
    with pytest.raises(DataError, match=r"each of them is in val/mri, train/mri; choose `part`"):
        find_pairs(tmp_path, entry(**train, cases={"exclude_cases_of": ["val/mri", "train/mri"]}))


def test_names_without_a_case_are_refused_and_other_patterns_can_be_given(tmp_path):
    write(tmp_path, ["a", "b"], ["p1-axial-7", "p2-axial-7"])
    cases = {"part": "val", "val_cases": "p2"}
    with pytest.raises(DataError, match=r"'p1-axial-7' does not fit .*`cases.pattern`"):
        find_pairs(tmp_path, entry(a="a", b="b", cases=cases))
    found = find_pairs(tmp_path, entry(a="a", b="b", cases={**cases, "pattern": r"(p\d+)-.*"}))
    assert found.names == ["p2-axial-7"]


def check(root, train, val, *more):
    lists = ["--set", f"train=[{train}]", "--set", f"val=[{val}]"]
    command_line.main(["check-data", "--data", str(root), *lists, *more])


def test_check_data_reports_entries_and_refuses_what_both_sides_share(tmp_path, capsys):
    write(tmp_path, ["t/mri", "t/ct"], slices(3, 25))
    write(tmp_path, ["v/mri", "v/ct"], ["25077", "41001"])
    check(tmp_path, "{a: t/mri, b: t/ct}", "{a: v/mri, b: v/ct}")
    assert "train  t/mri + t/ct: 8 pairs, 32×33, 0.0 MB" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="share 1 case: 25"):
        check(tmp_path, "{a: t/mri, b: t/ct}", "{a: v/mri, b: v/ct}", "--case-pattern", SLICES)
    check(tmp_path, "{a: t/mri, b: t/ct, cases: {exclude_cases_of: v/mri}}", "{a: v/mri, b: v/ct}")
    assert "no case is in both train and val" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="share 8 pairs"):
        check(tmp_path, "{a: t/mri, b: t/ct}", "{a: t/mri, b: t/ct}")


@pytest.mark.skipif(not MEDICAL.is_dir(), reason="needs the medical slices in shared/data/mif-pet")
def test_the_given_medical_split_leaks_and_the_split_by_case_does_not():
    given = [[Path(name).stem for name in os.listdir(MEDICAL / part / "mri")] for part in ("train", "val")]
    assert cases_in_both(*given, SLICES)
    sides = [
        [
            name
            for folder in ("train", "val")
            for name in find_pairs(
                MEDICAL, entry(a=f"{folder}/mri", b=f"{folder}/pet", cases={"part": part, "val_cases": 30})
            ).names
        ]
        for part in ("train", "val")
    ]
    assert cases_in_both(*sides, SLICES) == []
    assert sorted(sides[0] + sides[1]) == sorted(given[0] + given[1])
