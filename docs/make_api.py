"""Writes docs/api.md from the source: signatures, docstrings, comments above fields.

Nothing of the package is imported but the settings.

    python -m docs.make_api

tests/test_docs.py fails where the page is not what this writes.
"""

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from ast_jax import settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
WIDTH = 110

# A heading, a module, and the names to tell of it; without names all that are public.
SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("A recipe by its name", "recipes", ("recipe",)),
    ("Training", "training/loop", ("train",)),
    ("Tagging", "inference/predict", ("Tagger",)),
    ("What a tagger answers", "inference/answers", ("Tags",)),
    ("What an answer rests on", "inference/explain", ("Explanation",)),
    ("Weights", "weights/pretrained", ("load_model", "LoadedModel", "initialise")),
    ("Checkpoints as they are read", "weights/recognise", ("read_source",)),
    ("The AST", "models/ast", ("AST", "ASTConfig")),
    ("Model families", "models/base", ()),
    ("Sound files", "features/audio", ("load_audio",)),
    ("Log-mel spectrograms", "features/log_mel", ("log_mel",)),
    ("Front ends", "features/front_end", ()),
    ("Objectives", "objectives", ()),
    ("Metrics", "evaluation/metrics", ()),
    ("Augmentation", "training/augment", ()),
    ("Data sets", "datasets/listing", ()),
)
HEAD = """# API

Made from the docstrings by `python -m docs.make_api`; do not edit by hand. Names of the first table come from
`ast_jax` itself, all others
from the module that stands below their heading, whose first lines explain the letters in shapes. A user's
mistake raises `ast_jax.errors.InputError`, a `ValueError` with one line: what was got, what was wanted, what
to do.
"""
Documented = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """The whole page."""
    parts = [wrapped_page_head(), front_door()]
    for heading, module, names in SECTIONS:
        parts += section(heading, module, names)
    text = "\n".join([*parts, *settings_tables()])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def wrapped_page_head() -> str:
    title, _, text = HEAD.partition("\n")
    return f"{title}\n\n{textwrap.fill(text.strip(), WIDTH)}\n"


def front_door() -> str:
    """The table of what `ast_jax` offers. Raises KeyError for a name that no section tells of."""
    homes = {
        node.name: node for _, module, names in SECTIONS for node in documented(source_of(module), names)
    }
    rows = [f"| [`{name}`](#{anchor(name)}) | {summary(homes[name])} |" for name in public_names()]
    return "\n".join(["| from `ast_jax` | |", "|---|---|", *rows, ""])


def public_names() -> list[str]:
    """The names in `ast_jax.__all__`, by reading them."""
    for node in source_of("__init__").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            return list(ast.literal_eval(node.value))
    raise KeyError("ast_jax/__init__.py has no _HOMES")


def section(heading: str, module: str, names: tuple[str, ...]) -> Iterator[str]:
    tree = source_of(module)
    yield f"## {heading}\n\n`ast_jax.{module.replace('/', '.')}`\n"
    if not names:
        yield markdown(ast.get_docstring(tree) or "")
        yield from tables_of(module, tree)
    for node in documented(tree, names):
        yield from (function(node) if isinstance(node, ast.FunctionDef) else class_(module, node))


def source_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def path_of(module: str) -> Path:
    return ROOT / "ast_jax" / f"{module}.py"


def documented(tree: ast.Module, names: tuple[str, ...]) -> list[Documented]:
    """The functions and classes called `names`, in that order; without names every public one."""
    found = {node.name: node for node in tree.body if isinstance(node, Documented)}
    return [found[name] for name in names or found if names or not name.startswith("_")]


def undocumented() -> list[str]:
    """Functions and classes of the page, and methods of these, that have no docstring."""
    missing = []
    for _, module, names in SECTIONS:
        for node in documented(source_of(module), names):
            methods = public_methods(node) if isinstance(node, ast.ClassDef) else []
            owners = [(node.name, node), *((f"{node.name}.{method.name}", method) for method in methods)]
            missing += [f"{module}.py: {name}" for name, own in owners if not ast.get_docstring(own)]
    return missing


def summary(node: Documented) -> str:
    """The first sentence of a docstring."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return escaped(re.split(r"(?<=\.) (?=[A-Z])", text)[0])


# ---- Functions and classes


def function(node: ast.FunctionDef, owner: str = "") -> Iterator[str]:
    level, name = ("####", f"{owner}.{node.name}") if owner else ("###", node.name)
    yield f"{level} `{name}`\n"
    yield f"```python\n{signature(node, name)}\n```\n"
    yield markdown(ast.get_docstring(node) or "")


def signature(node: ast.FunctionDef, name: str) -> str:
    """As it would be written: on one line, or an argument a line."""
    own = node.args
    if is_property(node):
        return f"{name} -> {ast.unparse(node.returns)}" if node.returns else name
    plain = [*own.posonlyargs, *own.args]
    defaults = [None] * (len(plain) - len(own.defaults)) + list(own.defaults)
    words = [argument(*pair) for pair in zip(plain, defaults, strict=True)]
    if own.vararg:
        words.append("*" + argument(own.vararg))
    elif own.kwonlyargs:
        words.append("*")
    words += [argument(*pair) for pair in zip(own.kwonlyargs, own.kw_defaults, strict=True)]
    if own.kwarg:
        words.append("**" + argument(own.kwarg))
    words = [word for word in words if word not in ("self", "cls")]
    back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(words)}){back}"
    broken = "".join(f"    {word},\n" for word in words)
    return line if len(line) <= WIDTH else f"{name}(\n{broken}){back}"


def argument(arg: ast.arg, default: ast.expr | None = None) -> str:
    kind = f": {ast.unparse(arg.annotation)}" if arg.annotation else ""
    if default is None:
        return arg.arg + kind
    return f"{arg.arg}{kind}{' = ' if kind else '='}{ast.unparse(default)}"


def is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(item) in ("property", "cached_property") for item in node.decorator_list)


def class_(module: str, node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"### `{node.name}`\n"
    made = next((own for own in methods_of(node) if own.name == "__init__"), None)
    head = signature(made, node.name) if made else f"{node.name}({bases})" if bases else node.name
    yield f"```python\nclass {head}\n```\n"
    yield markdown(ast.get_docstring(node) or "")
    if rows := list(fields(module, node)):
        yield "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows, ""])
    for method in public_methods(node):
        yield from function(method, node.name)


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [own for own in node.body if isinstance(own, ast.FunctionDef)]


def public_methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [own for own in methods_of(node) if own.name == "__call__" or not own.name.startswith("_")]


def fields(module: str, node: ast.ClassDef) -> Iterator[str]:
    """A row an annotated field; its meaning is the comment above it, or behind it."""
    text = path_of(module).read_text(encoding="utf-8").splitlines()
    for own in node.body:
        if isinstance(own, ast.AnnAssign) and isinstance(own.target, ast.Name) and own.target.id[0] != "_":
            default = "" if own.value is None else f"`{default_of(own.value)}`"
            kind = ast.unparse(own.annotation)
            yield row(f"`{own.target.id}`", f"`{kind}`", default, comment_of(text, own))


def default_of(value: ast.expr) -> str:
    """A dataclass field's default, or what makes it."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "setting":
        return ast.unparse(value.args[0])
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        if keyword.arg == "default_factory":
            return f"{ast.unparse(keyword.value)}()"
    return ast.unparse(value)


def comment_of(text: list[str], node: ast.stmt) -> str:
    """The comment behind a statement, or the lines of comment right above it."""
    if behind := re.search(r"  # (.*)", text[(node.end_lineno or node.lineno) - 1]):
        return behind.group(1)
    number, above = node.lineno - 2, []
    while text[number].strip().startswith("#"):
        above.insert(0, text[number].strip().lstrip("# "))
        number -= 1
    return " ".join(above)


# ---- Tables and constants


def tables_of(module: str, tree: ast.Module) -> Iterator[str]:
    """Public tables in capitals, each with the names of its rows and the comment above it."""
    text = path_of(module).read_text(encoding="utf-8").splitlines()
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        name = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        if rows := names_of_rows(node.value) if name.isupper() and name[0] != "_" else []:
            told = escaped(comment_of(text, node))
            listed = f"`{name}`: {', '.join(f'`{key}`' for key in rows)}."
            yield textwrap.fill(f"{listed} {told}".strip(), WIDTH, **NO_BREAKS) + "\n"


def names_of_rows(value: ast.expr) -> list[str]:
    """The keys of a dictionary, the texts of a tuple, or the names that its rows begin with."""
    if isinstance(value, ast.Dict):
        return [key.value for key in value.keys if isinstance(key, ast.Constant)]
    items = value.elts if isinstance(value, ast.Tuple) else []
    items = [item.args[0] if isinstance(item, ast.Call) and item.args else item for item in items]
    return [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]


def settings_tables() -> Iterator[str]:
    """Every setting with type, default, range and meaning."""
    yield "## Settings\n\n`ast_jax.settings`\n"
    tree = source_of("settings")
    yield markdown(ast.get_docstring(tree) or "")
    text = path_of("settings").read_text(encoding="utf-8").splitlines()
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, kind in settings.SECTIONS.items():
        node = classes[kind.__name__]
        prefix = f"{settings.NESTED[name]}." if name in settings.NESTED else ""
        yield f"### `Settings.{name}`\n"
        yield markdown(ast.get_docstring(node) or "")
        yield "| key | type | default | range | meaning |\n|---|---|---|---|---|"
        own = {item.name: item for item in dataclasses.fields(kind)}
        for line in node.body:
            if isinstance(line, ast.AnnAssign):
                item = own[ast.unparse(line.target)]
                cells = (
                    f"`{ast.unparse(line.annotation)}`",
                    f"`{default_of(line.value)}`",
                    limits(item.metadata),
                )
                yield row(f"`config.{prefix}{item.name}`", *cells, comment_of(text, line))
        yield ""


def limits(given: Mapping[str, float]) -> str:
    """A setting's range in words; nothing where there is none."""
    least, most, above = (given.get(key, math.nan) for key in ("least", "most", "above"))
    words = [f"above {above:g}"] * math.isfinite(above) + [f"at least {least:g}"] * math.isfinite(least)
    words += [f"at most {most:g}" if most == 1 else f"below {most:g}"] * math.isfinite(most)
    return ", ".join(words)


# ---- Text


NO_BREAKS = {"break_long_words": False, "break_on_hyphens": False}


def row(*cells: str) -> str:
    """A row of a table; a bar inside a cell would end it."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in map(escaped, cells))} |"


def anchor(name: str) -> str:
    """The address of a heading `name`, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-")


def escaped(text: str) -> str:
    """Stars and < as themselves, but in code and around a word that is stressed."""
    return re.sub(r"`[^`]*`|\*\w+\*|[*<]", lambda found: "\\" * (len(found[0]) == 1) + found[0], text)


def markdown(docstring: str) -> str:
    """A docstring as Markdown: paragraphs wrapped, indented lines as code, arguments and errors as lists."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring)) if docstring else []
    return "".join(f"{block(part.splitlines())}\n\n" for part in blocks)


def block(lines: list[str]) -> str:
    if all(line.startswith("    ") for line in lines):
        return "\n".join(lines)
    first = lines[0].rstrip(":")
    if first in ("Args", "Returns", "Raises") and lines[0].endswith(":"):
        text = textwrap.dedent("\n".join(lines[1:])).splitlines()
        if first == "Returns":
            return wrap(f"Returns: {' '.join(text)}")
        named = [re.sub(r"^([*\w, ]+):", r"`\1`:", item) for item in items(text)]
        return "\n".join([f"{first}:\n", *(wrap(f"- {item}", "  ") for item in named)])
    if lines[0].startswith("- "):
        return "\n".join(wrap(f"- {item[2:]}", "  ") for item in items(lines))
    return wrap(" ".join(lines))


def items(lines: list[str]) -> list[str]:
    """Lines joined with the indented ones that go on from them."""
    found: list[str] = []
    for line in lines:
        if line.startswith(" ") and found:
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    return found


def wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(escaped(text), WIDTH, subsequent_indent=indent, **NO_BREAKS)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
