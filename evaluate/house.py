"""Measure how the code is written: sizes, names, docstrings, import circles.

    python evaluate/house.py [FOLDER] [--tree]

What is measured are the targets that the project set itself for its own code (docs/style.md).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import click

from emogen.cli import run
from emogen.files import read_text, write_text

TREE_BEGINS, TREE_ENDS = "<!-- tree -->", "<!-- end -->"
Function = ast.FunctionDef | ast.AsyncFunctionDef
ROOT = Path(__file__).parents[1]
PARTICIPLE = re.compile(
    r"[a-z]*(?:ed|ing)|told|begun|made|given|taken|written|drawn|kept|held|found|known|shown|said|left|sent|put"
)
NOT_PARTICIPLE = frozenset(
    [
        "embed",
        "feed",
        "seed",
        "need",
        "speed",
        "string",
        "encoding",
        "training",
        "embedding",
        "sampling",
        "rating",
        "warning",
        "loading",
    ]
)
CONFIG_SUFFIXES = ("Config", "Settings", "Options", "Params", "Spec", "Sampling", "Limits", "Manner", "Plan", "Policy")
NOT_VERBS = frozenset(
    [
        "what",
        "of",
        "whether",
        "how",
        "where",
        "the",
        "a",
        "an",
        "which",
        "who",
        "when",
        "that",
        "this",
        "these",
        "those",
        "whose",
        "one",
        "two",
        "all",
        "each",
        "every",
        "no",
        "not",
        "only",
        "from",
        "for",
        "in",
        "on",
        "by",
        "with",
        "as",
        "to",
        "at",
        "it",
        "its",
        "under",
        "above",
        "below",
        "rows",
        "text",
        "texts",
        "words",
        "numbers",
        "lines",
        "things",
        "same",
        "other",
        "many",
        "much",
        "several",
        "some",
        "any",
        "such",
    ]
)


@dataclass(frozen=True, kw_only=True)
class House:
    """Hold the figures of one tree."""

    lines: int
    functions: int
    function_lines_median: float
    function_lines_p90: float
    private_used_once: float
    docstrings_imperative: float
    participle_names: float
    config_classes: int
    import_circles: int
    files_over_500: int
    lines_over_100: float


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=ROOT)
@click.option("--tree", is_flag=True, help="Write what each file says of itself into docs/architecture.md instead.")
def main(folder: Path, tree: bool) -> None:
    """Print the figures of the package and the benchmarks under FOLDER."""
    if tree:
        page = folder / "docs" / "architecture.md"
        before, _, rest = read_text(page).partition(TREE_BEGINS)
        write_text(page, f"{before}{TREE_BEGINS}\n{describe_tree(folder)}{TREE_ENDS}{rest.partition(TREE_ENDS)[2]}")
        return
    house = measure_house(folder)
    for name in House.__dataclass_fields__:
        value = getattr(house, name)
        click.echo(f"{name:24} {value:.3f}" if isinstance(value, float) and value < 1 else f"{name:24} {value:g}")


def measure_house(folder: Path) -> House:
    """Measure every Python file of `emogen/` and `evaluate/`; functions and docstrings count in `emogen/` alone."""
    own = sorted((folder / "emogen").rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in [*own, *sorted((folder / "evaluate").rglob("*.py"))]}
    trees = {path: ast.parse(texts[path]) for path in own}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function)]
    sizes = [count_lines(node) for node in functions]
    named = [node for node in functions if not node.name.startswith("__")]
    classes = [node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    lines = [line for text in texts.values() for line in text.splitlines()]
    return House(
        lines=len(lines),
        functions=len(functions),
        function_lines_median=median(sizes),
        function_lines_p90=quantiles(sizes, n=10)[-1],
        private_used_once=share_used_once(trees),
        docstrings_imperative=share_imperative(functions),
        participle_names=sum(is_participle(node.name) for node in named) / len(named),
        config_classes=sum(name.endswith(CONFIG_SUFFIXES) for name in classes),
        import_circles=count_circles(folder / "emogen", trees),
        files_over_500=sum(text.count("\n") > 500 for text in texts.values()),
        lines_over_100=sum(len(line) > 100 for line in lines) / len(lines),
    )


def describe_tree(folder: Path) -> str:
    """Return a code block with each file of the package and the first sentence of its docstring."""
    lines = ["```", "emogen/"]
    for path in sorted(
        (folder / "emogen").rglob("*.py"), key=lambda path: (path.parent.as_posix(), path.name != "__init__.py", path.name)
    ):
        place = path.relative_to(folder / "emogen")
        said = (ast.get_docstring(ast.parse(read_text(path))) or "").split("\n\n")[0].replace("\n", " ")
        indent = "  " * len(place.parts)
        if place.name == "__init__.py" and len(place.parts) > 1:
            lines.append(f"{indent[2:]}{'/'.join(place.parent.parts) + '/':<{28 - len(indent)}} {said}")
        elif place.name != "__init__.py":
            lines.append(f"{indent}{place.name:<{26 - len(indent)}} {said}")
    return "\n".join([*lines, "```", ""])


def count_lines(function: Function) -> int:
    """Count the lines of a function's signature and body, its docstring and decorators left out."""
    lines = range(function.lineno, (function.end_lineno or 0) + 1)
    if ast.get_docstring(function) is None:
        return len(lines)
    doc = function.body[0]
    return len(lines) - len(range(doc.lineno, (doc.end_lineno or 0) + 1))


def share_used_once(trees: dict[Path, ast.Module]) -> float:
    """Return the share of functions that are private and named exactly once in their file."""
    once, total = 0, 0
    for tree in trees.values():
        names = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        names.update(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        for node in ast.walk(tree):
            if isinstance(node, Function):
                total += 1
                once += node.name.startswith("_") and not node.name.startswith("__") and names[node.name] == 1
    return once / total


def share_imperative(functions: list[Function]) -> float:
    """Return the share of public docstrings whose first word looks like a verb in the imperative."""
    docs = [ast.get_docstring(node) for node in functions if not node.name.startswith("_")]
    first = [doc.split()[0].strip(".,:;`").lower() for doc in docs if doc]
    return sum(is_imperative(word) for word in first) / len(first)


def is_imperative(word: str) -> bool:
    """Tell whether a word can open an imperative: no article, question word or preposition, no third person, no participle."""
    is_third_person = word.endswith("s") and not word.endswith("ss")
    return word.isalpha() and word not in NOT_VERBS and not is_third_person and not word.endswith(("ed", "ing"))


def is_participle(name: str) -> bool:
    """Tell whether a function is named by a participle alone, such as `begun` or `_moved`."""
    bare = name.strip("_")
    return bare not in NOT_PARTICIPLE and bool(PARTICIPLE.fullmatch(bare))


def count_circles(package: Path, trees: dict[Path, ast.Module]) -> int:
    """Count the modules of the package that reach themselves by imports at the top of files."""
    modules = {name_module(path, package): tree for path, tree in trees.items()}
    edges = {name: find_imports(tree, modules) - {name} for name, tree in modules.items()}
    return sum(reaches_itself(name, edges) for name in edges)


def name_module(path: Path, package: Path) -> str:
    """Return the dotted name of a file of the package."""
    return ".".join([package.name, *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__")


def find_imports(tree: ast.Module, known: Collection[str]) -> set[str]:
    """Find the modules among `known` that a file imports when it is loaded."""
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
    return {name if name in known else name.rpartition(".")[0] for name in names} & set(known)


def reaches_itself(start: str, edges: dict[str, set[str]]) -> bool:
    """Tell whether a walk along the imports comes back to where it began."""
    seen, waiting = set[str](), list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += edges[name]
    return start in seen


if __name__ == "__main__":
    run(main, "house.py")
