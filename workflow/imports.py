"""Which files of the package a page reaches: a static reading of imports, those inside functions included.

A package's ``__init__.py`` that passes names on counts by the names that are asked for: a page that takes one
function from :mod:`unrolling` does not reach everything that has a name there.
"""

import ast
from pathlib import Path

import nbformat

PACKAGE = "unrolling"
#: Data beside the package, by the name with which code reaches for them.
BESIDE = {"results": "results", "benchmarks": "benchmarks/results"}
#: Not read by the code, or made by reading.
NOT_DATA = {".py", ".pyc", ".md", ".typed", ".cache"}

#: A module, and whether what it imports counts too.
_Node = tuple[str, bool]


def data_files(folder: Path) -> list[Path]:
    """Return the data files below a folder, sorted, without what a run has not finished."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if path.suffix not in NOT_DATA and "unfinished" not in path.parts]


def _texts(tree: ast.Module) -> set[str]:
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str
    }


class Imports:
    """The modules of the package below ``root``, and what they import."""

    def __init__(self, root: Path):
        self.root = root
        self._files: dict[str, Path] = {}
        for path in sorted((root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            self._files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self._trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self._files.items()}
        self._named = {name: _texts(tree) for name, tree in self._trees.items()}
        self._edges: dict[str, set[_Node]] = {}
        self._readers = {path: self._readers_of(path) for path in data_files(root / PACKAGE)}
        self._beside = {name: data_files(root / folder) for name, folder in BESIDE.items()}

    def of_notebook(self, path: Path) -> set[Path]:
        """Return the files that a notebook reaches: modules, and the data that they read.

        Modules that are imported because they lie in a folder, as the checks of claims are, count if they
        name the notebook; and all of them if it asks for any claim itself, with ``evaluate``.
        """
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        lines = [line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!"))]
        tree = ast.parse("\n".join(lines))
        asks = any(isinstance(node, ast.Name) and node.id == "evaluate" for node in ast.walk(tree))

        seen: set[_Node] = set()
        ahead = self._imported(tree)
        while ahead:
            name, whole = node = ahead.pop()
            if name.endswith(".*"):
                below = [module for module in self._files if module.startswith(name[:-1])]
                ahead |= {(module, True) for module in below if asks or path.stem in self._named[module]}
            else:
                seen.add(node)
                ahead |= self._below(name) if whole else set()
            ahead -= seen
        modules = {name for name, _ in seen}
        return {self._files[name] for name in modules} | self._data_of(modules, _texts(tree))

    def _below(self, name: str) -> set[_Node]:
        if name not in self._edges:
            self._edges[name] = self._imported(self._trees[name])
        return self._edges[name]

    def _data_of(self, modules: set[str], named: set[str]) -> set[Path]:
        """The data files that one of the modules reads, and those of which nobody knows who does."""
        found = {path for path, readers in self._readers.items() if not readers or readers & modules}
        named = named.union(*(self._named[name] for name in modules))
        return found.union(*(paths for name, paths in self._beside.items() if name in named))

    def _readers_of(self, path: Path) -> set[str]:
        """The modules that name a data file, or its folder, and lie beside or above it."""
        return {
            name
            for name, texts in self._named.items()
            if self._files[name].parent in path.parents and {path.name, path.parent.name} & texts
        }

    def _imported(self, tree: ast.Module) -> set[_Node]:
        """What a module imports; ``package.*`` where it asks for whatever lies in a package."""
        bound, found = {}, set()  # the first: names of modules of the package
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name not in self._files:
                        continue
                    if alias.name != PACKAGE:
                        found |= self._whole(alias.name)
                    bound[alias.asname or PACKAGE] = alias.name if alias.asname else PACKAGE
            elif isinstance(node, ast.ImportFrom) and node.module in self._files:
                for alias in node.names:
                    found |= self._name(node.module, alias.name)
                    if (module := f"{node.module}.{alias.name}") in self._files:
                        bound[alias.asname or alias.name] = module
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in bound
            ):
                module = bound[node.value.id]
                found |= {(f"{module}.*", True)} if node.attr == "__path__" else self._name(module, node.attr)
        return found

    def _name(self, module: str, name: str) -> set[_Node]:
        """What ``module.name`` reaches."""
        if f"{module}.{name}" in self._files:
            return self._whole(f"{module}.{name}")
        if self._files[module].name == "__init__.py":
            for node in self._trees[module].body:
                match node:
                    case ast.ImportFrom(module=source) if source in self._files:
                        for alias in node.names:
                            if name == (alias.asname or alias.name):
                                return {(module, False)} | self._name(source, alias.name)
                    case ast.Assign(targets=[ast.Name(id=assigned)], value=ast.Constant()):
                        if name == assigned:
                            return {(module, False)}
        return self._whole(module)

    def _whole(self, module: str) -> set[_Node]:
        """A module with all that it imports, and the packages that it lies in."""
        parts = module.split(".")
        return {(module, True)} | {(".".join(parts[:n]), False) for n in range(1, len(parts))}
