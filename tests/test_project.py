"""The project's own rules: imports point one way, nothing heavy comes along, requirements stay honest.

Every check is driven by the files that are there.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from sound_trees import class_tree

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ast_jax"
FOLDERS = ("ast_jax", "benchmarks", "configs", "docs", "launch", "tests", ".ci")

# A room may import from itself and from the rooms before it; every other module in ast_jax/ is "top".
ORDER = (
    *(
        "errors",
        "cache",
        "system",
        "tables",
        "text_tables",
        "settings",
        "config",
        "recipes",
        "features",
        "models",
        "objectives",
    ),
    *(
        "sharding",
        "terminal",
        "events",
        "datasets",
        "checkpoints",
        "weights",
        "evaluation",
        "training",
        "planning",
    ),
    *("inference", "commands", "top"),
)


def sources(*folders: str, suffix: str = ".py") -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*" + suffix))]


def imports(path: Path, package: Path = PACKAGE) -> Iterator[str]:
    """Every absolute module name the file asks for, lazy ones too; `from a import b` gives `a.b`."""
    here = ".".join(path.relative_to(package.parent).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "import_module",
            "importlib.import_module",
            "__import__",
        ):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def module_graph(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of this package that it imports; the front door only names homes: left out."""
    paths = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path
        for path in package.rglob("*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    del paths[package.name]
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        inside = {target for target in imports(path, package) if target.split(".")[0] == package.name}
        # `a.b.c` may be the module a.b.c or the name c of a.b; with neither, the front door was asked.
        graph[name] = {
            next((t for t in (target, target.rpartition(".")[0]) if t in paths), package.name)
            for target in inside
        }
    return graph


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or parts[1] in ORDER or (PACKAGE / parts[1]).is_dir() else "top"


def backward_imports(package: Path) -> list[str]:
    """What is wrong with the imports inside a package: one line each."""
    graph, wrong = module_graph(package), []
    for module, targets in sorted(graph.items()):
        if room(module) not in ORDER:
            wrong.append(f"{module}: the room {room(module)} has no place in the order")
            continue
        for target in sorted(targets):
            if target == package.name:
                wrong.append(f"{module} imports from the front door: name the room where it lives")
            elif room(target) in ORDER and ORDER.index(room(target)) > ORDER.index(room(module)):
                wrong.append(f"{module} imports {target}, which comes later")
    try:
        TopologicalSorter({module: targets - {module} for module, targets in graph.items()}).prepare()
    except CycleError as error:
        wrong.append("a circle: " + " -> ".join(error.args[1]))
    return wrong


def test_imports_point_one_way():
    assert backward_imports(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        (
            "features/audio.py",
            "from ast_jax.models import AST",
            "ast_jax.features.audio imports ast_jax.models, which comes later",
        ),
        (
            "features/audio.py",
            "def f():\n    import ast_jax.training.loop",
            "imports ast_jax.training.loop, which comes later",
        ),
        (
            "models/ast.py",
            "from ..main import run",
            "ast_jax.models.ast imports ast_jax.main, which comes later",
        ),
        (
            "errors.py",
            "import importlib\nimportlib.import_module('ast_jax.config')",
            "imports ast_jax.config, which comes later",
        ),
        ("training/loop.py", "from ast_jax import AST", "imports from the front door"),
        ("training/loop.py", "from . import step", "a circle: "),
        ("odds/ends.py", "import os", "the room odds has no place in the order"),
    ],
)
def test_a_backward_import_is_found(tmp_path, module, line, complaint):
    good = {
        "__init__.py": "", "errors.py": "", "config.py": "", "main.py": "from ast_jax.training import loop",
        "features/__init__.py": "", "features/audio.py": "from ast_jax.errors import InputError",
        "models/__init__.py": "from ast_jax.models.ast import AST",
        "models/ast.py": "from ast_jax.features import load_audio",
        "training/__init__.py": "", "training/loop.py": "from ast_jax.models import ast",
        "training/step.py": "from .loop import run",
    }  # fmt: skip
    for name, text in good.items():
        (tmp_path / "ast_jax" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ast_jax" / name).write_text(text)
    assert backward_imports(tmp_path / "ast_jax") == []
    (tmp_path / "ast_jax" / module).parent.mkdir(exist_ok=True)
    (tmp_path / "ast_jax" / module).write_text(line)
    assert any(complaint in wrong for wrong in backward_imports(tmp_path / "ast_jax"))


def test_tensorflow_is_imported_nowhere():
    users = [
        str(path)
        for path in sources("ast_jax", "benchmarks", "configs", "launch", "tests")
        if any(
            name.split(".")[0] in ("tensorflow", "keras", "tf_keras")
            for name in imports(path, ROOT / "ast_jax")
        )
    ]
    assert users == []


def test_the_package_needs_nothing_from_outside_its_folder():
    outside = ("tests", "benchmarks", "configs", "launch")
    assert [
        (path.name, name)
        for path in sources("ast_jax")
        for name in imports(path)
        if name.split(".")[0] in outside
    ] == []


# What a room may not bring along when it is imported, its public names looked up too (they may be lazy).
HEAVY = {
    "torch",
    "torchvision",
    "matplotlib",
    "tensorflow",
    "tensorflow_datasets",
    "librosa",
    "orbax",
    "grain",
    "transformers",
    "timm",
}
FORBIDDEN = {
    "ast_jax": HEAVY | {"jax", "flax"},
    "ast_jax.features": HEAVY | {"jax", "flax"},
    "ast_jax.datasets": HEAVY | {"jax", "flax"},
    "ast_jax.evaluation.metrics": HEAVY | {"jax", "flax"},
    "ast_jax.config": HEAVY | {"jax", "flax"},
}


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in memory after a statement, in a Python of its own."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def home(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("module", [module for module in FORBIDDEN if home(module).exists()])
def test_light_rooms_stay_light(module):
    assert loaded_by(f"import {module}") & FORBIDDEN[module] == set()


@pytest.mark.skipif(not home("ast_jax.features").exists(), reason="no ast_jax/features yet")
def test_features_names_need_no_jax():
    names = "[getattr(features, name) for name in features.__all__]"
    assert loaded_by(f"import ast_jax.features as features; {names}") & FORBIDDEN["ast_jax.features"] == set()


def test_the_front_door_offers_no_module_by_the_name_of_a_function():
    import ast_jax

    assert {path.stem for path in PACKAGE.iterdir()} & set(ast_jax.__all__) == set()


@pytest.mark.parametrize("room", [path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py"))])
def test_a_public_name_is_the_same_after_any_import(room):
    """A submodule called like a public name would take its place once somebody imports that submodule."""
    package = f"ast_jax.{room}"
    same = [path.stem for path in sources(f"ast_jax/{room}") if path.stem != "__init__"]
    code = f"""
import importlib, inspect
package = importlib.import_module({package!r})
for name in set({same}) & set(getattr(package, "__all__", [])):
    importlib.import_module({package!r} + "." + name)
    assert not inspect.ismodule(getattr(package, name)), f"{{name}} is now the module, no longer the function"
"""
    assert "ast_jax" in loaded_by(code)


@pytest.mark.skipif(not home("ast_jax.models").exists(), reason="no ast_jax/models yet")
def test_models_need_jax_and_flax_only():
    modules = [f"ast_jax.models.{path.stem}" for path in sources("ast_jax/models") if path.stem != "__init__"]
    ours = loaded_by("import ast_jax.models, " + ", ".join(modules))
    assert ours - loaded_by("import jax, numpy, jaxtyping; from flax import nnx") <= {
        "ast_jax",
        *sys.stdlib_module_names,
    }


def modules() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources("ast_jax")
        if path.stem != "__main__"
    ]


def test_every_module_can_be_imported():
    """With the packages of requirements.txt alone: what is optional is asked for inside functions."""
    assert "torch" not in loaded_by("\n".join(f"import {name}" for name in modules()))


ELSEWHERE = """
import os, sys
sys.modules |= dict.fromkeys(("fcntl", "resource", "termios"))
del os.sched_getaffinity
"""


def test_without_what_posix_alone_has_everything_is_imported_and_sounds_are_prepared(tmp_path):
    """As on Windows, as far as that can be had here."""
    tree = class_tree(tmp_path / "sounds", {"a": 30, "b": 30})
    code = f"""
from ast_jax.datasets.prepare import prepare
from ast_jax.commands.serve import serve
from ast_jax.errors import InputError
found = prepare("folder", source_dir={str(tree)!r}, data_dir={str(tmp_path / "data")!r})
print(found.num_examples(found.splits))
try:
    serve(model=["none"])
except InputError as error:
    print(error)
"""
    code = "\n".join([ELSEWHERE, *(f"import {name}" for name in modules()), code])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2] == "60"
    assert "in WSL" in done.stdout.splitlines()[-1]
    assert "is not locked on linux: start no second process on it" in done.stderr


def test_every_module_says_what_it_is():
    silent = [
        str(p.relative_to(ROOT))
        for p in sources(*FOLDERS)
        if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert silent == []


# Written so that this file does not hold them itself.
UNWANTED = re.compile(
    r"(?<![\w.~$}])/" + r"(root|home|work)/|\bTO" + r"DO\b|\bFIX" + r"ME\b|Not" + r"ImplementedError"
)
PROSE = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".cff",
    ".yaml",
    ".yml",
    ".json",
    ".csv",
    ".sh",
    ".html",
    ".js",
    ".css",
    ".cfg",
    "",
}


def unwanted(paths: Iterable[Path]) -> list[str]:
    """Lines that name a machine's own folders or put work off."""
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNWANTED.search(line)
    ]


def test_no_path_of_one_machine_and_no_work_put_off():
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # a worktree's
    files += [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    files = [path for path in files if path.suffix in PROSE]
    assert len(files) > 10
    assert unwanted(files) == []


def test_an_unwanted_line_is_found(tmp_path):
    (tmp_path / "a.py").write_text("fine = 1\npath = '/" + "home/me/x'\n# TO" + "DO later\n")
    assert len(unwanted([tmp_path / "a.py"])) == 2


def requirements(name: str) -> dict[str, str]:
    """Distribution -> the whole line, without the files it includes."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("-r")]
    return {re.match(r"[\w.-]+", line).group().lower().replace("_", "-"): line for line in lines}


def test_pyproject_and_requirements_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert project["project"]["dynamic"] == ["dependencies"]
    assert dynamic == {"dependencies": {"file": "requirements.txt"}}
    assert sorted(project["project"]["optional-dependencies"]["dev"]) == sorted(
        requirements("requirements-dev.txt").values()
    )
    for name, line in requirements("requirements-parity.txt").items():
        assert requirements("requirements.txt").get(name, line) == line, "two versions asked for"


def test_what_the_package_imports_is_asked_for():
    """Every third-party import in ast_jax/ is named in requirements.txt, in an extra of pyproject.toml, or
    among what no extra can ask for, since its own requirements do not go with ours.
    """
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {
        *requirements("requirements.txt"),
        *requirements("requirements-parity-no-deps.txt"),
        *(re.match(r"[\w.-]+", line).group().lower() for e in extras.values() for line in e),
    }
    homes = importlib.metadata.packages_distributions()
    tops = {name.split(".")[0] for path in sources("ast_jax", "configs") for name in imports(path)}
    strangers = tops - sys.stdlib_module_names - {"ast_jax", "configs"}
    unasked = {
        top for top in strangers if not {d.lower().replace("_", "-") for d in homes.get(top, [top])} & asked
    }
    assert unasked == set()
