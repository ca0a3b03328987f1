"""Flags from signatures: every form, every mistake in one line, and every command's help."""

import inspect
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest

from ast_jax.commands import COMMANDS, invoke
from ast_jax.commands.cli import Flag, call
from ast_jax.commands.convert import Format
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cut:
    """Flags that several commands share."""

    std: Annotated[float | None, Flag("deviation", above=0)] = None
    strides: Annotated[tuple[int, int] | None, Flag("both", metavar="MEL_BINS,FRAMES", least=1)] = None


def tag(
    files: Annotated[list[Path], Flag("sounds", metavar="FILE")],
    *,
    model: Annotated[list[str], Flag("repeat it")],
    kind: Literal["token", "mean"] = "token",
    top: Annotated[int, Flag("labels, 5 % of all", least=1, most=9)] = 5,
    cut: Cut = Cut(),
    folds: Annotated[tuple[int, ...], Flag("by commas", least=1)] = (1, 2),
    json: bool = False,
    out: Annotated[Path | None, Flag(output=True)] = None,
):
    """Tags.

    an example
    """
    return locals()


def plain(recipe: Recipe, *rest: str, workdir: Path | None = None):
    return recipe, rest, workdir


def optional(sources: list[str], *, recipe: Recipe | None = None, again: bool = False):
    return sources, recipe, again


def test_every_form_of_a_flag():
    argv = (
        "a.wav --model=x --json b.wav --model y --strides=10,16 --std .5 --folds=3 --kind=mean --out=o c.wav"
    )
    assert call(tag, argv.split(), prog="tag") == {
        "files": [Path("a.wav"), Path("b.wav"), Path("c.wav")],
        "model": ["x", "y"],
        "kind": "mean",
        "top": 5,
        "cut": Cut(std=0.5, strides=(10, 16)),
        "folds": (3,),
        "json": True,
        "out": Path("o"),
    }
    found = call(tag, ["--model=x", "--", "--odd name.wav"], prog="tag")
    assert found["files"] == [Path("--odd name.wav")]
    assert (found["folds"], found["json"], found["cut"]) == ((1, 2), False, Cut())
    for out in ("new.npz", "new/er/x.npz", f"{ROOT}/README.md", f"{ROOT}/new/x.npz"):
        assert call(tag, ["a.wav", "--model=x", f"--out={out}"], prog="tag")["out"] == Path(out)
    for bound in (1, 9):
        assert call(tag, ["a.wav", "--model=x", f"--top={bound}"], prog="tag")["top"] == bound


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--top=0", "--top: got '0', wanted a whole number, at least 1, at most 9"),
        ("--top=10", "at most 9"),
        ("--top=2.5", "wanted a whole number"),
        ("--std=0", "--std: got '0', wanted a number, above 0"),
        ("--std=nan", "wanted a number, above 0"),
        ("--std=inf", "wanted a number, above 0"),
        ("--folds=1,a", "--folds: got '1,a', wanted"),
        ("--folds=", "--folds: got ''"),
        ("--strides=5", "--strides: got '5', wanted 2 values by commas, each a whole number, at least 1"),
        ("--strides=5,0", "at least 1"),
        ("--kind=sum", "--kind: invalid choice: 'sum'"),
        ("--out=", "--out: got '', wanted a path of a file that can be written"),
        (f"--out={ROOT}", "of a file that can be written"),
        (f"--out={ROOT / 'README.md' / 'x.npz'}", "of a file that can be written"),
        ("--modle=y", "there is no --modle here: did you mean --model?"),
        ("--jsn", "there is no --jsn here: did you mean --json?"),
        ("--config=x", "there is no --config here"),
        ("--top", "--top: expected one argument"),
    ],
)
def test_a_mistaken_flag_is_one_line(flags, message):
    with pytest.raises(InputError) as error:
        call(tag, ["a.wav", "--model=x", *flags.split()], prog="tag")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_missing_or_too_much_is_told():
    with pytest.raises(InputError, match="required: --model"):
        call(tag, ["a.wav"], prog="tag")
    with pytest.raises(InputError, match="required: FILE"):
        call(tag, ["--model=x"], prog="tag")
    with pytest.raises(InputError, match="no --config was given"):
        call(plain, [], prog="plain")
    with pytest.raises(InputError, match="'b' is one too many"):
        call(one, ["a", "b"], prog="one")


def one(a: str):
    return a


def test_a_recipe_and_what_is_passed_on():
    recipe, rest, workdir = call(
        plain, ["--config.seed", "1", "--flink=a", "--config=esc50", "--workdir=w", "x"], prog="plain"
    )
    assert recipe == Recipe("esc50", (("seed", "1"),))
    assert (rest, workdir) == (("--flink=a", "x"), Path("w"))
    _, rest, workdir = call(plain, ["--config=esc50", "--work=w"], prog="plain")
    assert (rest, workdir) == (("--work=w",), None), "what is shortened is another program's flag"
    assert call(optional, ["RUN"], prog="o") == (["RUN"], None, False)
    assert call(optional, ["RUN", "--config=esc50", "--again"], prog="o") == (["RUN"], Recipe("esc50"), True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_its_flags_mean(name, capsys):
    """Without a recipe, a model or a file; every flag with a sentence, every number with its bounds."""
    with pytest.raises(SystemExit) as status:
        invoke(name, ["--help"])
    assert status.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    command = getattr(import_module(COMMANDS[name][0]), name)
    assert inspect.getdoc(command).splitlines()[0] in out
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.annotation is not Format:
            shared = parameter.annotation if is_dataclass(parameter.annotation) else None
            flags = [field.name for field in fields(shared)] if shared else [parameter.name]
            assert "recipe" in parameter.name or all(f"--{flag}" in out for flag in flags)


def test_choices_are_the_librarys_own():
    from ast_jax.weights.convert import FORMATS

    assert get_args(Format) == FORMATS


def test_what_tags_files_imports_nothing_that_it_does_not_use():
    unused = [
        "scipy.ndimage",
        "scipy.optimize",
        "scipy.signal",
        "sklearn",
        "matplotlib",
        "pandas",
        "torch",
        "tensorflow",
    ]
    unused += ["tensorflow_datasets", "grain", "librosa", "fastapi", "onnx", "ast_jax.training"]
    code = (
        "import sys\nimport ast_jax.commands.predict\nfrom ast_jax.inference.predict import Tagger\n"
        f"print([name for name in {unused} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_starts_without_what_is_heavy():
    heavy = "jax flax orbax matplotlib fcntl resource sklearn".split()  # noqa: SIM905
    code = (
        "import sys\nfrom ast_jax.__main__ import command\ncommand([], prog='x')\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
