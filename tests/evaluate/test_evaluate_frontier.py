"""Frontiers against their definitions by counting cells, and the drawing by reading the files."""

import hashlib
import math
import re
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.errors import DataError, EmogenError, SettingsError
from emogen.evaluate.frontier import Axis, Point, axis, dominated_volume, draw, hypervolume, pareto
from emogen.evaluate.score import Score

UP, DOWN = Axis("bleu"), Axis("self_bleu4", lower_is_better=True)
GRID = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8)
AXES = st.sampled_from([UP, DOWN])


def point(quality, diversity, system="ours", temperature=1.0, width=0.1):
    scores = (Score(value, value - width, value + width, "x") for value in (quality, diversity))
    return Point(system, temperature, *scores)


def curve(system, shift=0.0):
    return [point(9 - 3 * t + shift, 0.9 - 0.4 * t, system, t, 0.02) for t in (1.2, 0.5, 1.0)]


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        *(
            (name, True)
            for name in (
                "ter",
                "self_bleu4",
                "self_bleu2",
                "commonest",
                "perplexity",
                "frechet",
                "nll_heldout",
                "nats_per_character",
            )
        ),
        *(
            (name, False)
            for name in ("bleu", "distinct2", "distinct2_corrected", "backward_bleu4", "mauve", "novelty", "terse")
        ),
    ],
)
def test_which_metrics_are_better_low(name, lower):
    """By the name, and the label says so."""
    assert axis(name) == Axis(name, lower)
    assert f"{name} ({'lower' if lower else 'higher'} is better" in axis(name).label


@given(GRID, AXES, AXES)
def test_pareto_is_what_no_other_beats(places, quality, diversity):
    """By the definition, with the comparison written out for each pair of ways."""

    def no_worse(left, right, axis):
        return left <= right if axis.lower_is_better else left >= right

    def beats(left, right):
        return left != right and no_worse(left[0], right[0], quality) and no_worse(left[1], right[1], diversity)

    points = [point(*place) for place in places]
    expected = [kept for kept, place in zip(points, places, strict=True) if not any(beats(other, place) for other in places)]
    assert pareto(points, quality, diversity) == expected
    assert expected


@given(GRID, st.tuples(st.integers(0, 9), st.integers(0, 9)), AXES, AXES)
def test_hypervolume_counts_the_cells_between(places, reference, quality, diversity):
    """Unit cells of the grid whose middle lies between the reference and some point."""

    def between(middle, value, worst, axis):
        return value < middle < worst if axis.lower_is_better else worst < middle < value

    middles = [(row + 0.5, column + 0.5) for row in range(9) for column in range(9)]
    expected = sum(
        any(between(x, place[0], reference[0], quality) and between(y, place[1], reference[1], diversity) for place in places)
        for x, y in middles
    )
    points = [point(*place) for place in places]
    assert hypervolume(points, reference, quality, diversity) == pytest.approx(expected)
    assert hypervolume(pareto(points, quality, diversity), reference, quality, diversity) == pytest.approx(expected)


def test_hypervolume_by_hand():
    """A staircase of three boxes: 3 x .2 + 2 x .3 + 1 x .4; and one box where low is good."""
    points = [point(2, 0.5), point(1, 0.9), point(3, 0.2), point(1, 0.1)]
    assert hypervolume(points, (0, 0), UP, UP) == pytest.approx(1.6)
    assert hypervolume([point(30, 0.25)], (20, 1), UP, DOWN) == pytest.approx(7.5)


@given(st.integers(1, 4), st.data())
def test_dominated_volume_is_that_of_the_union_of_boxes(axes, data):
    """Over any number of axes, by inclusion and exclusion: the boxes of some points meet in that of their least corner."""
    corner = st.tuples(*[st.integers(0, 9)] * axes)
    points, reference = data.draw(st.lists(corner, max_size=6)), data.draw(corner)
    expected = 0
    for chosen in range(1, 1 << len(points)):
        picked = [place for number, place in enumerate(points) if chosen >> number & 1]
        sides = [max(0, min(place[a] for place in picked) - reference[a]) for a in range(axes)]
        expected += (-1) ** (len(picked) + 1) * math.prod(sides)
    assert dominated_volume(points, reference) == pytest.approx(expected)
    assert dominated_volume(points[::-1], reference) == pytest.approx(expected)


def test_dominated_volume_of_few_points():
    """None; one box; and the same point twice."""
    assert dominated_volume([], (0, 0, 0)) == 0
    assert dominated_volume([(0.5, 2, -1)] * 2, (0.25, 1, -3)) == pytest.approx(0.25 * 1 * 2)
    for wrong in ([(1, 2)], [(1, float("nan"), 2)]):
        with pytest.raises(DataError, match="pass as many numbers each, all finite"):
            dominated_volume(wrong, (0, 0, 0))


def test_points_that_are_none_are_refused():
    """With the system and the temperature."""
    for function in (lambda points: pareto(points, UP, DOWN), lambda points: hypervolume(points, (0, 0), UP, DOWN)):
        with pytest.raises(DataError, match="no points to score"):
            function([])
        with pytest.raises(DataError, match=r"^ours at temperature 0\.7: diversity is nan"):
            function([point(1, float("nan"), temperature=0.7)])
    with pytest.raises(DataError, match=r"reference \(0, inf\) is not finite"):
        hypervolume([point(1, 1)], (0, float("inf")), UP, UP)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    pytest.importorskip("matplotlib")
    points = [*curve("mle"), *curve("_gan $x$ 5", 0.5), *curve("系统", -0.5)]
    return draw(points, tmp_path_factory.mktemp("drawn") / "v1.5", UP, DOWN)


def texts_of(svg):
    return [node.text for node in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_both_files_are_drawn(drawn):
    """The suffix joins the name even where that has a point; the PNG is 6.4 x 4.8 inches at 200 dots."""
    png, svg = drawn
    assert (png.name, svg.name) == ("v1.5.png", "v1.5.svg")
    assert sorted(path.name for path in png.parent.iterdir()) == ["v1.5.png", "v1.5.svg"]
    header = png.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (1280, 960)


def test_the_figure_names_systems_axes_and_temperatures(drawn):
    """As they are, even those that matplotlib would read as mathematics or hide; once for each system."""
    found = texts_of(drawn[1])
    assert {"mle", "_gan $x$ 5", "系统"} <= set(found)
    assert "quality: bleu (higher is better)" in found
    assert "diversity: self_bleu4 (lower is better, axis reversed)" in found
    assert found.count("1.2") == 3


def test_the_better_corner_is_the_upper_right(tmp_path):
    """A reversed axis has its larger numbers on the left."""
    pytest.importorskip("matplotlib")
    _, svg = draw(curve("mle"), tmp_path / "figure", UP, DOWN)
    horizontal = svg.read_text(encoding="utf-8").partition('id="matplotlib.axis_1"')[2].partition('id="matplotlib.axis_2"')[0]
    ticks = re.findall(r'<text [^>]*transform="[^"]*?([0-9.]+) [0-9.]+\)">([0-9.]+)</text>', horizontal)
    numbers = [float(number) for _, number in sorted(ticks, key=lambda tick: float(tick[0]))]
    assert len(numbers) > 2
    assert numbers == sorted(numbers, reverse=True)


def test_systems_differ_without_colour(drawn):
    """Three shapes of marker, and two kinds of dashes beside the solid line."""
    text = drawn[1].read_text(encoding="utf-8")
    marks = set(re.findall(r'<use xlink:href="#(\w+)"[^>]* style="fill: (#\w+)', text))
    shapes = {re.search(rf'<path id="{mark}" d="([^"]+)"', text)[1] for mark, _ in marks}
    assert len(marks) == len(shapes) == len({colour for _, colour in marks}) == 3
    assert len(set(re.findall("stroke-dasharray: ([0-9.,]+)", text))) == 2


def test_the_same_points_give_the_same_bytes(tmp_path, monkeypatch):
    """Neither a date nor random names in them, and the reader's own style plays no part and stays as it is; no pyplot."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    digests = []
    for colour in ("white", "red"):
        with matplotlib.rc_context({"axes.facecolor": colour}):
            files = draw(curve("mle"), tmp_path / colour, UP, UP)
            assert matplotlib.rcParams["axes.facecolor"] == colour
            assert matplotlib.rcParams["svg.hashsalt"] is None
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]


def test_a_suffix_is_dropped_and_greedy_decoding_is_a_point(tmp_path):
    """One point makes no line but a figure."""
    pytest.importorskip("matplotlib")
    png, svg = draw([point(1, 2, temperature=0.0)], tmp_path / "figure.svg", UP, UP)
    assert (png.name, svg.name) == ("figure.png", "figure.svg")
    assert "0" in texts_of(svg)


def test_a_figure_that_fails_leaves_the_old_one(tmp_path):
    """A folder stands where the SVG should go: the PNG stays too."""
    pytest.importorskip("matplotlib")
    (tmp_path / "figure.png").write_text("old")
    (tmp_path / "figure.svg").mkdir()
    with pytest.raises(EmogenError, match=r"figure\.svg: is no regular file"):
        draw(curve("mle"), tmp_path / "figure", UP, UP)
    assert (tmp_path / "figure.png").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_two_points_at_one_temperature_are_refused(tmp_path):
    """Several seeds are several curves or one mean."""
    with pytest.raises(DataError, match="mle has two points at temperature 1: average its seeds"):
        draw([*curve("mle"), point(1, 1, "mle", 1.0)], tmp_path / "figure", UP, UP)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    """Nothing is written."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r'pip install -e "\.\[plots\]"'):
        draw(curve("mle"), tmp_path / "figure", UP, UP)
    assert not list(tmp_path.iterdir())
