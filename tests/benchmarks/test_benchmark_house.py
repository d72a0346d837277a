"""The figures of the tree, on a package that can be counted by hand; and the page that shows the tree."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluate"))

import house

TOP = Path(__file__).parents[2]
FIRST = '''"""The first file."""
from emogen.second import total


def load(path):
    """Return what stands in a file."""
    return _told(path)


def _told(path):
    return path
'''
SECOND = '''"""The second file."""
from emogen.first import load


def total(values):
    """The sum of the values."""
    if not values:
        return 0
    return sum(values)


class GanConfig:
    pass
'''


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "emogen").mkdir()
    (tmp_path / "evaluate").mkdir()
    for name, text in {"first": FIRST, "second": SECOND, "third": '"""The third."""\n' + "x = 1\n" * 600}.items():
        (tmp_path / "emogen" / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "evaluate" / "study.py").write_text(f"# {'long ' * 30}\n", encoding="utf-8")
    return tmp_path


def test_a_tree_that_can_be_counted_by_hand(tree):
    found = house.measure_house(tree)
    lines = FIRST.count("\n") + SECOND.count("\n") + 601 + 1
    assert (found.lines, found.functions, found.config_classes) == (lines, 3, 1)
    # Signature and body: 2, 2 and 4 lines.
    assert found.function_lines_median == 2
    assert found.private_used_once == pytest.approx(1 / 3)
    assert found.docstrings_imperative == 0.5
    assert found.participle_names == pytest.approx(1 / 3)
    assert (found.import_circles, found.files_over_500) == (2, 1)
    assert found.lines_over_100 == pytest.approx(1 / lines)


@pytest.mark.parametrize(
    ("word", "is_one"), [("return", True), ("the", False), ("writes", False), ("guess", True), ("what", False), ("taken", True)]
)
def test_what_opens_an_imperative(word, is_one):
    """Irregular participles pass: no list of them would be whole."""
    assert house.is_imperative(word) is is_one


def test_the_page_shows_the_tree_as_it_is():
    page = (TOP / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = page.partition(house.TREE_BEGINS)[2].partition(house.TREE_ENDS)[0]
    assert shown.lstrip("\n") == house.describe_tree(TOP), "python evaluate/house.py --tree writes it anew"
