"""What lies in a directory of sounds and gives no clip is told; names of any bytes are heard; tables are read
to the letter.
"""

import csv
import io
import os
import string
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from sound_trees import class_tree, write_wav

from ast_jax.datasets import folder
from ast_jax.datasets.prepare import prepare
from ast_jax.errors import InputError
from ast_jax.text_tables import read_table


def told(tmp_path: Path, tree: Path, capsys) -> tuple[dict[str, int], list[dict[str, str]], str]:
    """Clips by class, the rows of skipped.csv, what was said."""
    prepared = prepare("folder", source_dir=tree, data_dir=tmp_path / "data")
    with (prepared.directory / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = prepared.class_counts(prepared.splits).tolist()
    return dict(zip(prepared.label_names, counts, strict=True)), rows, capsys.readouterr().err


def test_loose_sounds_and_empty_classes_are_told(tmp_path, capsys):
    tree = class_tree(tmp_path / "set", {"a": 3, "b": 3})
    write_wav(tree / "loose.wav")
    (tree / "c").mkdir()
    counts, rows, said = told(tmp_path, tree, capsys)
    assert counts == {"a": 3, "b": 3}
    assert [(row["path"], row["reason"]) for row in rows] == [("loose.wav", "no class"), ("c", "empty")]
    assert "1 sound beside the directories of classes, in none of them: " in said
    assert "1 directory without sounds: no class: " in said


@pytest.mark.parametrize("target", ["..", "../b", "../..", "../b/deep"])
def test_a_link_to_what_is_read_anyway_puts_no_clip_into_two_classes(tmp_path, capsys, target):
    tree = class_tree(tmp_path / "set", {"a": 3, "b": 3, "b/deep": 2})
    (tree / "a" / "all").symlink_to(target, target_is_directory=True)
    counts, rows, said = told(tmp_path, tree, capsys)
    assert counts == {"a": 3, "b": 5}
    assert [(row["path"], row["reason"]) for row in rows] == [("a/all", "link")]
    assert "1 link to what is read anyway: not followed: " in said


def test_a_link_to_sounds_of_another_place_is_followed(tmp_path, capsys):
    tree = class_tree(tmp_path / "set", {"a": 3, "b": 3})
    elsewhere = class_tree(tmp_path / "elsewhere", {"a": 2})
    (tree / "a" / "more").symlink_to(elsewhere / "a", target_is_directory=True)
    (tree / "c").symlink_to(class_tree(tmp_path / "third", {"x": 4}) / "x", target_is_directory=True)
    assert told(tmp_path, tree, capsys)[0] == {"a": 5, "b": 3, "c": 4}


def test_links_to_files_and_classes_that_are_there_by_themselves(tmp_path, capsys):
    tree = class_tree(tmp_path / "set", {"a": 3, "b": 3})
    (first,) = sorted((tree / "b").iterdir())[:1]
    (tree / "a" / "again.wav").symlink_to(first)
    (tree / "c").symlink_to(tree / "b", target_is_directory=True)
    counts, rows, said = told(tmp_path, tree, capsys)
    assert counts == {"a": 3, "b": 3}
    assert {row["path"] for row in rows if row["reason"] == "link"} == {"a/again.wav", "c"}
    assert "2 links to what is read anyway" in said


@pytest.mark.skipif(sys.platform != "linux", reason="setpriv and bytes in names are Linux's")
def test_a_directory_that_may_not_be_opened_is_told_and_counted(tmp_path):
    """In a process that may not read everything, which root may."""
    tree = class_tree(tmp_path / "set", {"a": 3, "b": 3, "b/closed": 2, "c": 2})
    (tree / "b" / "closed").chmod(0)
    (tree / "c").chmod(0)
    code = """
import sys
from pathlib import Path
from ast_jax.datasets import folder
from ast_jax.inference.files import sound_files
from ast_jax.features import AudioError, load_audio
listing = folder.list_clips(sys.argv[1])
print([(path.rsplit("/", 1)[1], *why) for path, *why in listing.left_out], listing.notes["told"])
try:
    load_audio([path for path in sound_files([Path(sys.argv[1])]) if path.name == "closed"][0])
except AudioError as error:
    print(error)
"""
    rights = ("dac_override", "dac_read_search", "fowner")
    drop = ["setpriv", "--bounding-set", ",".join(f"-{right}" for right in rights), "--inh-caps=-all"]
    command = [*(drop if os.geteuid() == 0 else []), sys.executable, "-c", code, str(tree)]
    # with the effective set of root, capabilities come back at exec unless the bounding set lacks them
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    (tree / "b" / "closed").chmod(0o755)
    (tree / "c").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "('closed', 'unreadable', 'not opened: permission denied')" in done.stdout
    assert "('c', 'unreadable', 'not opened: permission denied')" in done.stdout
    assert "2 directories could not be opened" in done.stdout
    assert "unreadable: a directory that may not be opened" in done.stdout.splitlines()[-1].replace(
        "got ", ""
    )


def test_names_that_are_not_utf_8_are_prepared_and_told_escaped(tmp_path, capsys):
    tree = class_tree(tmp_path / "set", {"a": 4, "b": 4})
    first = sorted((tree / "a").iterdir())[0]
    os.rename(os.fsencode(first), os.fsencode(tree / "a") + b"/caf\xe9.wav")
    (tree / "b" / os.fsdecode(b"not\xe9es.txt")).write_text("x")
    os.rename(os.fsencode(tree / "b"), os.fsencode(tree) + b"/b\xfc")
    counts, rows, _ = told(tmp_path, tree, capsys)
    assert counts == {"a": 4, "b\\udcfc": 4}
    assert [row["path"] for row in rows] == ["b\\udcfc/not\\udce9es.txt"]
    prepared = prepare("folder", source_dir=tree, data_dir=tmp_path / "data", progress=False)
    assert any(id.startswith("caf\\") for id in prepared.ids(prepared.splits))
    assert len(prepared.source(prepared.splits)[0]["fbank"])


def test_two_unicode_forms_of_a_label_are_one_class(tmp_path):
    table = tmp_path / "t.csv"
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    table.write_text(
        "file,labels\n" + "".join(f"{i}.wav,{forms[i % 2]}\n" for i in range(4)), encoding="utf-8"
    )
    assert folder.list_clips(table).label_names == (forms[0],)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_utf_8_is_read_with_and_without_its_mark(tmp_path, mark):
    (tmp_path / "t.csv").write_bytes(mark + "file,labels\r\n1.wav,Hörner\r\n2.wav,b\r\n".encode())
    assert folder.list_clips(tmp_path / "t.csv").label_names == ("Hörner", "b")


CELLS = st.text(string.ascii_letters + " ,;\"'é\u0301|", max_size=8)


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6))
@tried(150)
def test_what_a_spreadsheet_writes_is_read_back(rows, tmp_path_factory):
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("file", "labels", "split"), *rows])
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    wanted = [tuple(cell.strip() for cell in row) for row in rows if any(cell.strip() for cell in row)]
    if not wanted:
        with pytest.raises(InputError, match="has no rows"):
            read_table(path, ("file",))
    else:
        assert [tuple(row.values()) for row in read_table(path, ("file",))] == wanted


@given(harm=st.binary(max_size=40), place=st.integers(0, 60))
@tried(300)
def test_a_damaged_table_is_told_in_a_line_or_read_with_its_columns_whole(harm, place, tmp_path_factory):
    held = b"file,labels,split\n1.wav,a;b,train\n2.wav,b,test\n3.wav,a,train\n"
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_bytes(held[:place] + harm + held[place:])
    error, rows = "", []
    try:
        rows = read_table(path, ("file", "labels", "split"))
    except InputError as refusal:
        error = str(refusal)
    assert bool(rows) != bool(error)
    assert "\n" not in error
    assert all({"file", "labels", "split"} <= row.keys() for row in rows)
    assert all(cell is not None and "\n" not in cell for row in rows for cell in row.values())
