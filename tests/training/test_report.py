"""Intervals, paired differences, ranks, and what the reports say about them."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from training.data.images import DataError
from training.evaluation.bootstrap import Resamples
from training.evaluation.groups import read_groups
from training.evaluation.markdown import to_markdown
from training.evaluation.page import PairPictures, to_html
from training.evaluation.pairs import Pair
from training.evaluation.report import to_json
from training.evaluation.results import Results
from training.evaluation.sheet import thumbnail
from training.evaluation.summary import RANK, Report
from training.evaluation.wording import headline, notable

HARD = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
"""How much harder each pair is than the first, for every method alike."""
WIGGLE = 0.05 * np.cos(np.arange(12))


def report_of(values, *, ranked_by=("EN",), references=("ours",), **more):
    metrics = tuple(next(iter(values.values())))
    count = len(next(iter(next(iter(values.values())).values())))
    table = {name: {m: list(v) for m, v in row.items()} for name, row in values.items()}
    results = Results(metrics, tuple(f"p{i}" for i in range(count)), table)
    return Report("set/val", "native", results, ranked_by, references, **more)


def test_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(5.0, 2.0, (3, 400))
    resamples = Resamples(400)
    low, high = resamples.interval(resamples.means(values))
    expected = 2 * 1.96 * values.std(axis=1) / 20.0
    np.testing.assert_allclose(high - low, expected, rtol=0.1)
    assert ((low < values.mean(axis=1)) & (values.mean(axis=1) < high)).all()
    again = Resamples(400)
    np.testing.assert_array_equal(again.interval(again.means(values)), [low, high])


def test_values_that_are_not_defined_stay_out_of_every_draw():
    values = np.array([[2.0, 2.0, math.nan, 2.0], [math.nan] * 4, [math.inf, 3.0, 3.0, 3.0]])
    resamples = Resamples(4)
    low, high = resamples.interval(resamples.means(values))
    np.testing.assert_array_equal(low, [2.0, math.nan, 3.0])
    np.testing.assert_array_equal(high, low)


def test_what_makes_a_pair_hard_for_all_cancels_in_the_difference():
    report = report_of({"theirs": {"EN": 7.0 - HARD}, "ours": {"EN": 7.2 - HARD + WIGGLE}})
    ours, theirs = (report.intervals["EN"][name] for name in ("ours", "theirs"))
    assert ours.low < theirs.high  # the means alone tell nothing
    found = report.differences["ours"]["theirs"]["EN"]
    assert found.mean == pytest.approx(0.2 + WIGGLE.mean())
    assert 0.1 < found.interval.low < found.mean < found.interval.high < 0.3
    assert found.better is True
    assert report_of(report.results.values, references=("theirs",)).differences["theirs"]["ours"]["EN"].better is False


def test_a_lower_error_is_better():
    report = report_of({"theirs": {"MSE": 50.0 + HARD}, "ours": {"MSE": 40.0 + HARD}}, ranked_by=("MSE",))
    found = report.differences["ours"]["theirs"]["MSE"]
    assert (found.mean, found.better) == (pytest.approx(-10.0), True)
    assert report.differences["ours"]["theirs"][RANK].better is True


def test_equal_methods_share_their_rank_in_every_draw():
    values = {name: {"EN": 7.0 - HARD + 1e-13 * i, "SD": HARD} for i, name in enumerate(("ours", "twin"))}
    report = report_of(values, ranked_by=("EN", "SD"))
    assert report.table[RANK] == {"ours": 1.5, "twin": 1.5}
    assert report.intervals[RANK]["ours"] == (1.5, 1.5)
    assert report.differences["ours"]["twin"]["SD"].better is None
    assert report.differences["ours"]["twin"]["SD"].interval == (0.0, 0.0)


def test_ranks_are_found_afresh_in_every_draw():
    lead = np.where(np.arange(12) % 2, 1.0, -0.9)  # ahead on average, behind on every other pair
    report = report_of({"theirs": {"EN": HARD}, "ours": {"EN": HARD + lead}})
    assert report.table[RANK] == {"theirs": 2.0, "ours": 1.0}
    assert report.intervals[RANK]["ours"] == (1.0, 2.0)
    assert report.differences["ours"]["theirs"][RANK].better is None


def test_controls_are_ranked_in_the_place_of_their_model():
    values = {
        "best": {"EN": 9.0 - HARD},
        "ours": {"EN": 8.0 - HARD},
        "ours, without": {"EN": 6.0 - HARD},
        "poor": {"EN": 7.0 - HARD},
        "ours, worse": {"EN": 8.5 - HARD},
    }
    report = report_of(values, controls={"ours, without": "ours", "ours, worse": "ours"})
    assert report.table[RANK] == {"best": 1, "ours": 2, "ours, without": 3, "poor": 3, "ours, worse": 2}
    assert "place 2 of 3" in headline(report)[0]


def test_one_pair_and_few_pairs_are_called_what_they_are():
    one = report_of({"ours": {"EN": [7.0]}, "theirs": {"EN": [6.0]}})
    assert math.isnan(one.intervals["EN"]["ours"].low)
    assert one.differences["ours"]["theirs"]["EN"].better is None
    assert "One pair allows no intervals." in headline(one)
    assert "## Diff" not in to_markdown(one)
    assert to_json(one)["methods"]["ours"]["interval"]["EN"] is None
    few = report_of({"ours": {"EN": [7.0, 6.0]}, "theirs": {"EN": [6.0, 5.0]}})
    assert any("too narrow" in sentence for sentence in headline(few))


def test_markdown_marks_differences_that_exclude_zero():
    values = {
        "theirs": {"EN": 7.0 - HARD, "MSE": HARD, "SD": HARD},
        "ours": {"EN": 8.0 - HARD + WIGGLE, "MSE": HARD + 1.0, "SD": HARD + WIGGLE - WIGGLE.mean()},
    }
    lines = to_markdown(report_of(values)).splitlines()
    table = lines[lines.index("## Differences: ours minus another method, on the same pairs") :]
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in table if line.startswith("| ")}
    assert re.fullmatch(r"\*\*\+0\.998\*\* ▲ \(\+0\.9\d\d … \+1\.0\d\d\)", rows["EN ↑"])
    assert rows["MSE ↓"] == "**+1.000** ▼ (+1.000 … +1.000)"
    assert "*" not in rows["SD ↑"]
    assert to_markdown(report_of({"a|b": values["ours"]}, references=())).count("a\\|b") == 2


def test_ranking_by_what_was_not_measured_is_refused():
    with pytest.raises(ValueError, match="SD"):
        report_of({"ours": {"EN": HARD}}, ranked_by=("EN", "SD"))


def test_findings_on_one_pair():
    values = {
        "ours": {"EN": [7.0, 7.0, 7.0, 4.0], "SD": [50.0, 51.0, 49.0, 50.0]},
        "theirs": {"EN": [6.0, 6.0, 6.0, 6.0], "SD": [40.0, 40.0, 40.0, 40.0]},
        "others": {"EN": [5.0, 5.0, 5.0, 7.0], "SD": [45.0, 45.0, 60.0, 45.0]},
    }
    report = report_of(values, ranked_by=("EN", "SD"))
    assert report.worst_first[-2:] == [0, 1]
    assert notable(report, 0) == "best on EN, SD"
    assert notable(report, 2) == "best on EN; loses most on SD: 49.00, others has 60.00"
    assert notable(report, 3) == (
        "best on SD; loses most on EN: 4.000, others has 7.000; unusually poor for it on EN: 4.000, its mean is 6.250"
    )


class Page(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.heads = [], [], []
        self._in_head = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in {"src", "href"}]
        self._in_head = tag == "h3"

    def handle_data(self, data):
        if self._in_head:
            self.heads.append(data)
            self._in_head = False


def page_of(report, shown=20):
    rng = np.random.default_rng(2)
    pairs = [Pair(name, *rng.integers(0, 256, (2, 40, 600)).astype(np.uint8)) for name in report.results.pairs]
    fused = {(name, pair.name): thumbnail(pair.a) for name in report.methods for pair in pairs}
    return to_html(report, PairPictures(pairs, fused, shown, ("visible", "infrared")))


def test_page_needs_nothing_else_and_shows_the_worst_pairs_first():
    values = {
        "<b>ours</b>": {"EN": [7.0, 5.0, 7.0], "SD": [50.0, 40.0, 30.0]},
        "plain": {"EN": [6.0, 6.0, 6.0], "SD": [45.0, 45.0, 45.0]},
        "$x_1$": {"EN": [5.0, 5.5, 5.0], "SD": [41.0, 41.0, 41.0]},
    }
    report = report_of(values, ranked_by=("EN", "SD"), references=("<b>ours</b>",), groups={"p0": "day", "p1": "night"})
    text = page_of(report)
    page = Page(text)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.heads == ["1. p1", "2. p2", "3. p0"]
    assert page.tags.count("img") == 3 * 5
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in page.sources)
    assert "<b>ours</b>" not in text
    assert "&lt;b&gt;ours&lt;/b&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert "Mean rank by group" in text
    assert "<small>σ 8.165</small>" in text
    assert page.tags.count("svg") == 2
    assert "$x_1$" in text  # no formula
    assert page_of(report) == text


def test_page_is_bounded():
    values = {name: {"EN": HARD + i} for i, name in enumerate(["ours", *"abcdef"])}
    report = report_of(values)
    page = Page(page_of(report, shown=2))
    assert page.tags.count("img") == 2 * 6  # both sources, the reference, three others
    assert Page(page_of(report, shown=0)).tags.count("img") == 0


def test_page_of_one_method_on_one_pair():
    text = page_of(report_of({"ours": {"EN": [math.nan]}}))
    assert Page(text).heads == ["1. p0"]
    assert "–" in text


def test_groups_have_their_own_ranks(tmp_path):
    values = {"ours": {"EN": [7.0, 7.0, 5.0]}, "theirs": {"EN": [6.0, 6.0, 6.0]}}
    file = tmp_path / "groups.csv"
    file.write_text("name,group,note\np0,day,x\np1,day,\np2,night,\nother,night,\n")
    report = report_of(values, groups=read_groups(file, ["p0", "p1", "p2"]))
    assert {name: (group.pairs, group.ranks["ours"]) for name, group in report.group_ranks.items()} == {
        "day": (2, 1.0),
        "night": (1, 2.0),
    }
    assert "| method | day (2) | night (1) |" in to_markdown(report)
    assert to_json(report)["groups"]["night"] == {"pairs": 1, "mean_rank": {"ours": 2.0, "theirs": 1.0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"pair,group\np0,day\n", "line 2: no name or no group"),
        (b"name,group\np0,\n", "line 2: no name or no group"),
        (b"name,group\np0,day\np0,night\n", "two groups, day and night"),
        (b"name,group\np1,day\n", "no group for 1 pairs, e.g. 'p0'"),
        (b"name,group\n\xff,day\n", "cannot read"),
    ],
)
def test_bad_group_files_are_explained(tmp_path, content, message):
    (tmp_path / "groups.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_groups(tmp_path / "groups.csv", ["p0"])
