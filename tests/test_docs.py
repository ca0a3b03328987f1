"""The pages: links lead somewhere, quoted code is what is tested, the API is what the source says."""

import re
from pathlib import Path

import numpy as np
import pytest

from ast_jax.weights import catalogue
from benchmarks import count_house
from docs import make_api

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATCH = "monkey" + "patch"  # so that this file does not count itself
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_api_page_is_what_the_source_says():
    assert make_api.PAGE.read_text(encoding="utf-8") == make_api.page(), "run python -m docs.make_api"


def test_everything_on_the_api_page_has_a_docstring():
    assert make_api.undocumented() == []


def test_every_setting_on_the_api_page_has_its_meaning_and_range():
    rows = re.findall(r"^\| `config\.([\w.]+)` \| (.*) \|$", make_api.page(), re.MULTILINE)
    told = {key: cells.split(" | ") for key, cells in rows}
    assert told.keys() == make_api.settings.flat(make_api.settings.defaults()).keys() | {
        "dataset.options",
        "model.options",
        "published",
    }
    assert told["mixup"][1:3] == ["`0.0`", "at least 0, at most 1"]
    assert told["dataset.std"][:3] == [r"`float \| None`", "`None`", "above 0"]
    assert told["dataset.data_dir"][3] == "where prepared shards live"


@pytest.mark.parametrize(
    ("docstring", "page"),
    [
        ("Figures\nof <one> *word*, a * b and `x * y`.", r"Figures of \<one> *word*, a \* b and `x * y`."),
        ("Does.\n\n    code * x\n\n- one\n  more\n- two", "Does.\n\n    code * x\n\n- one more\n- two"),
        (
            "Does.\n\nArgs:\n    a, b: what\n      they do.\n    **r: more.\n\nRaises:\n    InputError: no.",
            "Does.\n\nArgs:\n\n- `a, b`: what they do.\n- `**r`: more.\n\nRaises:\n\n- `InputError`: no.",
        ),
        ("Does.\n\nReturns:\n    One\n    line.", "Does.\n\nReturns: One line."),
    ],
)
def test_docstrings_become_markdown(docstring, page):
    assert make_api.markdown(docstring).strip() == page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_every_test_that_a_page_names_is_there():
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    there = {
        name
        for path in (ROOT / "tests").glob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert named
    assert sorted(named - there) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# One `x_y` heading\n\n## One x_y heading\n")
    good = "[a](there.md) [b](there.md#one-x_y-heading-1) [c](https://example.org/no) `[d](no.md)` [e](#here)"
    (tmp_path / "page.md").write_text(f"# Here\n\n{good}\n\n    [f](no.md)\n")
    assert broken_links(tmp_path / "page.md") == []
    (tmp_path / "page.md").write_text("[a](no.md) [b](there.md#none) ![c](no.png)")
    assert broken_links(tmp_path / "page.md") == ["no.md", "there.md#none", "no.png"]


def broken_links(page: Path) -> list[str]:
    """The relative links of a page whose file or heading is not there."""
    text = re.sub(r"^    .*$|`[^`\n]*`(?!\]\()", "", BLOCK.sub("", page.read_text()), flags=re.MULTILINE)
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (heading and heading not in anchors(target)):
            wrong.append(link)
    return wrong


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings; of several that are the same, the later ones are numbered."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE):
        name = make_api.anchor(heading)
        found[name] = found.get(name, -1) + 1
    return {f"{name}-{i}" if i else name for name, count in found.items() for i in range(count + 1)}


def quoted() -> list[tuple[str, str]]:
    """(what a block of contributing.md claims to be, its code), of every Python block."""
    blocks = BLOCK.findall((ROOT / "docs" / "contributing.md").read_text())
    return [(head.removeprefix("python").strip(), code) for head, code in blocks if head.startswith("python")]


def test_code_in_contributing_is_that_of_the_tested_files():
    names = [name for name, _ in quoted() if name != "key table"]
    assert names.count("my_parts.py") >= 6
    for name, code in quoted():
        if name != "key table":
            assert code in (ROOT / "tests" / "own_parts" / name).read_text(), code


def test_the_key_table_in_contributing_reads_and_writes_back():
    from ast_jax.weights import layouts

    scope: dict = {}
    exec(next(code for name, code in quoted() if name == "key table"), scope)
    rng = np.random.default_rng(0)
    shapes = {"fc1.weight": (8, 64), "fc1.bias": (8,), "fc2.weight": (2, 8), "fc2.bias": (2,)}
    shapes |= {f"bn.{name}": (64,) for name in ("weight", "bias", "running_mean", "running_var")}
    theirs = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    ours = layouts.read(scope["toy"](), theirs, where="toy.pth", check=lambda found: [])
    assert ours["hidden/kernel"].shape == (64, 8)
    assert set(ours) == {*("norm/scale", "norm/bias", "norm/mean", "norm/var"), *linear_paths()}
    back = layouts.write(scope["toy"](), ours)
    assert back.keys() == theirs.keys()
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)


def linear_paths() -> list[str]:
    return [f"{layer}/{name}" for layer in ("hidden", "head") for name in ("kernel", "bias")]


def test_the_house_is_counted(tmp_path):
    body = "".join(f"    x = {i}\n" for i in range(50))
    files = {
        "ast_jax/__init__.py": '"""Front\ndoor."""\n',
        "ast_jax/a.py": f"# why\nfrom ast_jax import b\n\n\ndef long():\n{body}",
        "ast_jax/b.py": f"import ast_jax.a\nx = '{'y' * 120}'\n",
        "ast_jax/c.py": "from ast_jax.a import long\n",
        "ast_jax/page.html": "<p>\n",
        "tests/test_a.py": f"def test(patch):\n    {PATCH}.setattr('a', 1)\n    {PATCH}.undo()\n",
        "requirements.txt": "# two\n-r other.txt\njax>=1\nnumpy  # why\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = count_house.counts(tmp_path)
    assert found["files of the product"] == "4"
    assert found["lines of the product"] == str(2 + 55 + 2 + 1)
    assert found["of these, lines of code"] == str(52 + 2 + 1)
    assert found["lines of its templates, pages and data"] == "1"
    assert found["of these, over 50 lines"] == "1 (100.0 %)"
    assert found["the longest, lines"] == "51"
    assert found["lines of the product over 110 columns"] == "1"
    assert found[f"{PATCH}.setattr in tests"] == "1"
    assert found["modules in an import cycle"] == "2"  # c imports one of them, and none imports c
    assert found["packages in requirements.txt"] == "2"


def test_every_name_of_weights_that_is_given_to_a_command_is_in_the_catalogue():
    """`--model=NAME` and `init_from=NAME`, where the name ends in a figure as the published ones do."""
    sources = [*PAGES, *(ROOT / "configs").glob("*.py"), *(ROOT / "ast_jax").rglob("*.py")]
    given = re.compile(r"(?:--model|init_from)[= ]\"?(\w[\w/-]*_\d*[._]?\d*\.\d+|mispeech/[\w-]+)")
    names = {name for path in sources for name in given.findall(path.read_text(encoding="utf-8"))}
    assert {"ast_audioset_10_10_0.4593", "cnn14_0.431", "mispeech/ced-tiny"} <= names
    assert names <= catalogue.entries().keys()
