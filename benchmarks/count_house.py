"""How large and how tidy the source is: the table of docs/architecture.md, from the files themselves.

    python -m benchmarks.count_house                 # the files here
    python -m benchmarks.count_house 231bd63         # a revision, and beside it the files here

The product is `ast_jax/` and `configs/`. A line of code is one with more than comments and docstrings on it;
tokens of code count no line breaks, so that they do not depend on how wide lines may be.
"""

import ast
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT, TOOLS, TESTS = ("ast_jax", "configs"), ("benchmarks", "launch"), ("tests",)
LONG_FUNCTION = 50  # lines
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
}


def main(argv: list[str]) -> None:
    columns = {}
    for revision in argv:
        with tempfile.TemporaryDirectory() as folder:
            unpack(revision, Path(folder))
            columns[revision] = counts(Path(folder))
    columns["here"] = counts(ROOT)
    print("\n".join(table(columns)))


def unpack(revision: str, folder: Path) -> None:
    """Writes the files of a revision into `folder`; ends with a line where there is no such revision."""
    done = subprocess.run(["git", "archive", "--format=tar", revision], cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(f"git archive {revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def table(columns: dict[str, dict[str, str]]) -> Iterator[str]:
    """Markdown: a row a count, a column a revision."""
    yield "| | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for name in next(iter(columns.values())):
        yield f"| {name} | " + " | ".join(found[name] for found in columns.values()) + " |"


def counts(root: Path) -> dict[str, str]:
    """Every count of the source under `root`, as text."""
    product, tools, tests = (sources(root, folders) for folders in (PRODUCT, TOOLS, TESTS))
    lengths = [length for path in product for length in function_lengths(path)]
    long = sum(length > LONG_FUNCTION for length in lengths)
    wide = lambda paths, columns: str(sum(len(line) > columns for path in paths for line in lines(path)))
    total = lambda paths, count: f"{sum(count(path) for path in paths):,}"
    return {
        "files of the product": str(len(product)),
        "lines of the product": total(product, lambda path: len(lines(path))),
        "of these, lines of code": total(product, lambda path: code(path)[0]),
        "tokens of code of the product": total(product, lambda path: code(path)[1]),
        "lines of its templates, pages and data": total(others(root, PRODUCT), lambda path: len(lines(path))),
        "lines of benchmarks and launch scripts in Python": total(tools, lambda path: len(lines(path))),
        "files of tests": str(len(tests)),
        "lines of tests": total(tests, lambda path: len(lines(path))),
        "functions of the product": f"{len(lengths):,}",
        f"of these, over {LONG_FUNCTION} lines": f"{long} ({100 * long / max(len(lengths), 1):.1f} %)",
        "the longest, lines": str(max(lengths, default=0)),
        "lines of the product over 110 columns": wide(product, 110),
        "lines of the product over 120 columns": wide(product, 120),
        "lines of tests over 110 columns": wide(tests, 110),
        "lines of tests over 120 columns": wide(tests, 120),
        "monkeypatch.setattr in tests": str(sum(map(patches, tests))),
        "modules in an import cycle": str(len(in_cycles(import_graph(root / "ast_jax")))),
        "packages in requirements.txt": str(requirements(root / "requirements.txt")),
    }


def sources(root: Path, folders: tuple[str, ...]) -> list[Path]:
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def others(root: Path, folders: tuple[str, ...]) -> list[Path]:
    """What lies beside the Python files of the product, all of it text."""
    found = (path for folder in folders for path in sorted((root / folder).rglob("*")))
    return [path for path in found if path.is_file() and path.suffix not in (".py", ".pyc")]


def code(path: Path) -> tuple[int, int]:
    """Lines with code on them, and tokens of code: without blank lines, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    told = {line for node in ast.walk(ast.parse(text)) for line in docstring_lines(node)}
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NO_CODE and token.string and token.start[0] not in told
    ]
    rows = {row for token in tokens for row in range(token.start[0], token.end[0] + 1)}
    return len(rows), len(tokens)


def docstring_lines(node: ast.AST) -> range:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return range(0)
    if not ast.get_docstring(node, clean=False):
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def function_lengths(path: Path) -> Iterator[int]:
    """Lines of every function, its docstring and inner functions included; decorators are not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def patches(path: Path) -> int:
    return len(re.findall(r"\bmonkeypatch\.setattr\(", path.read_text(encoding="utf-8")))


def import_graph(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports, inside functions too."""
    names = {module_name(package, path): path for path in package.rglob("*.py")}
    return {name: imported(path, name, names) for name, path in names.items()}


def module_name(package: Path, path: Path) -> str:
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, name: str, names: dict[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            own = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in names else node.module for module in own}
    return found & names.keys() - {name}


def in_cycles(graph: dict[str, set[str]]) -> set[str]:
    """Modules that import themselves by way of others."""
    reaches: Callable[[str], set[str]] = lambda module: closure(graph, graph[module])
    return {module for module in graph if module in reaches(module)}


def closure(graph: dict[str, set[str]], start: set[str]) -> set[str]:
    seen, waiting = set(start), list(start)
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def requirements(path: Path) -> int:
    """Packages that a requirements file names itself."""
    named = [line.split("#")[0].strip() for line in lines(path)]
    return sum(bool(line) and not line.startswith("-") for line in named)


if __name__ == "__main__":
    main(sys.argv[1:])
