"""Which function computes an equation of the paper and which test checks it: the table in book/notation.md.

``python -m workflow.equations`` writes the table, ``--check`` compares. A function belongs to the equations
that the first paragraph of its docstring names ("Eq. 9", "Eq. 4-6", "Eq. 2, 3 and 14"), a test to those of
its ``@pytest.mark.paper("Eq. 9")``. The sources are parsed, never imported.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE, API = Path("book/notation.md"), Path("book/api.md")
BEGIN, END = "<!-- written by python -m workflow.equations -->", "<!-- end -->"

#: What each equation is; all else in the table comes from the sources.
EQUATIONS = {
    1: "cross-entropy",
    2: "Lemma 1: weight densities of $M$ and $M'$",
    3: "Corollary 1: weight densities of $M''$ and $M'$",
    4: "$\\mathbf{w}_t$ as $\\mathbf{w}_0$ and two sums",
    5: "the terms of the second sum",
    6: "its leading term",
    7: "the leading term from $\\mathbf{w}_t - \\mathbf{w}_0$",
    8: "bound on the leading term",
    9: "unlearning error",
    10: "SD loss",
    11: "SD loss for two classes",
    12: "shortest way to a given gap",
    13: "Lemma 1, order by order",
    14: "Lemma 1, again",
    15: "Corollary 1, again",
    16: "Corollary 1 in the reverse direction",
}
NAMED = re.compile(r"\bEq\. (\d+(?:(?:-| to |, | and )\d+)*)")


class TableError(Exception):
    """The table cannot be written, or is not what the sources give."""


def equations_in(text: str) -> list[int]:
    """Return the numbers of the equations that ``text`` names, in order."""
    found: set[int] = set()
    for part in (part for listed in NAMED.findall(text) for part in re.split(", | and ", listed)):
        ends = [int(number) for number in re.split("-| to ", part)]
        found |= set(range(ends[0], ends[-1] + 1))
    if unknown := found - EQUATIONS.keys():
        raise TableError(f"there is no Eq. {min(unknown)} in the paper: {text!r}")
    return sorted(found)


def _definitions(path: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _documented(root: Path) -> dict[str, str]:
    """Return where the page of public names documents each of them: full name by name."""
    text = (root / API).read_text(encoding="utf-8")
    names = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", text, re.MULTILINE)
    if not names:
        raise TableError(f"{API} documents no names: expected lines such as .. autofunction:: unrolling.hvp")
    return {name.rpartition(".")[2]: name for name in names}


def functions(root: Path) -> Iterator[tuple[int, str]]:
    """Yield (equation, function as the table shows it); runs, frames and claims define none."""
    package, documented = root / "unrolling", _documented(root)
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).with_suffix("").parts
        if module[0] == "runs" or module[-1] in ("frames", "claims"):
            continue
        for node in _definitions(path):
            if node.name.startswith("_"):
                continue
            shown = ".".join([*module, node.name])
            place = documented.get(node.name)
            link = f"{{py:obj}}`~{place}`" if place else f"`{shown}`"
            for number in equations_in((ast.get_docstring(node) or "").split("\n\n")[0]):
                yield number, link


def tests(root: Path) -> Iterator[tuple[int, str]]:
    """Yield (equation, test) for every ``@pytest.mark.paper("Eq. N")``."""
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in _definitions(path):
            for decorator in node.decorator_list:
                match decorator:
                    case ast.Call(
                        func=ast.Attribute(attr="paper"), args=[ast.Constant(value=str(text))], keywords=[]
                    ) if numbers := equations_in(text):
                        yield from ((number, f"`{path.name}::{node.name}`") for number in numbers)
                    case ast.Attribute(attr="paper") | ast.Call(func=ast.Attribute(attr="paper")):
                        raise TableError(
                            f"{path.name}::{node.name}: expected the mark as "
                            f'@pytest.mark.paper("Eq. 9"), got @{ast.unparse(decorator)}.'
                        )


def table(root: Path) -> str:
    """Return the table in Markdown."""
    columns = [list(functions(root)), list(tests(root))]
    lines = ["| Eq. | what it is | function | tests |", "| ---: | --- | --- | --- |"]
    for number, words in EQUATIONS.items():
        computed, checked = ([shown for n, shown in column if n == number] for column in columns)
        more = f" and {len(checked) - 2} more" if len(checked) > 2 else ""
        lines.append(f"| {number} | {words} | {', '.join(computed)} | {', '.join(checked[:2])}{more} |")
    return "\n".join(lines)


def page_with(text: str, rows: str) -> str:
    """Return the page ``text`` with ``rows`` between the two marks."""
    parts = re.split(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}\n", text, flags=re.DOTALL)
    if len(parts) != 2:
        raise TableError(f"{PAGE} must have the lines {BEGIN} and {END}, once each and in this order.")
    return f"{parts[0]}{BEGIN}\n\n{rows}\n\n{END}\n{parts[1]}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.equations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would change")
    args = parser.parse_args()
    page = ROOT / PAGE
    try:
        stored = page.read_text(encoding="utf-8")
        written = page_with(stored, table(ROOT))
    except TableError as error:
        sys.exit(f"error: {error}")
    if args.check and written != stored:
        sys.exit(f"error: the equations in {PAGE} are out of date: run `python -m workflow.equations`.")
    if not args.check:
        page.write_text(written, encoding="utf-8")
    print(f"{PAGE} {'is up to date' if written == stored else 'written'}")


if __name__ == "__main__":
    main()
