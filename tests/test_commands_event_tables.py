"""Tables of events scored against each other and counted, from the command line."""

import io
import json
from collections import Counter
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile

from ast_jax.commands import invoke
from ast_jax.commands.event_tables import common_names
from ast_jax.errors import InputError
from ast_jax.events import Event, write_events
from ast_jax.events.summary import recorded
from ast_jax.inference.calendar import calendar

HEAD = "filename\tonset\toffset\tevent_label\n"


def test_tables_are_scored_against_each_other(tmp_path, capsys):
    rows = "file\tonset\toffset\tlabel\n/a/x.wav\t0\t1\tdog\n/a/x.wav\t2\t4\train\n"
    (tmp_path / "true.tsv").write_text(rows)
    (tmp_path / "found.tsv").write_text(rows.replace("/a/", "/b/").replace("2\t4", "2.1\t3.2"))
    with pytest.raises(InputError, match="PSDS is of tables at several thresholds"):
        invoke("score_events", [str(tmp_path / "true.tsv"), str(tmp_path / "found.tsv"), "--hours=1"])
    at = [f"--at={tmp_path / 'true.tsv'}", "--hours=1"]
    invoke("score_events", [str(tmp_path / "true.tsv"), str(tmp_path / "found.tsv"), *at])
    assert "PSDS 1: 1.000   (of 2 thresholds" in capsys.readouterr().out
    invoke("score_events", [str(tmp_path / "true.tsv"), str(tmp_path / "found.tsv")])
    table = capsys.readouterr().out
    assert "| dog | 1.000 | 1.000 | 1.000 |" in table
    assert "| rain | 0.000 | 1.000 | 1.000 |" in table
    assert "| all together | 0.500 | 1.000 | 1.000 |" in table


def test_what_finds_nothing_is_scored(tmp_path, capsys):
    (tmp_path / "true.tsv").write_text(HEAD + "x.wav\t0\t1\tdog\ny.wav\t\t\t\n")
    for found in ("", "x.wav\t\t\t\ny.wav\t\t\t\n"):
        (tmp_path / "found.tsv").write_text(HEAD + found)
        invoke("score_events", [str(tmp_path / "true.tsv"), str(tmp_path / "found.tsv")])
        told = capsys.readouterr()
        assert "| dog | 0.000 | 0.000 | 0.000 |" in told.out
        assert not told.err
        invoke("count_events", [str(tmp_path / "found.tsv")])
        told = capsys.readouterr()
        assert told.out == "| label | events | seconds | files |\n| --- | --- | --- | --- |\n"
        assert told.err == f"{2 * bool(found)} files, {2 * bool(found)} of them without events\n"
    invoke("score_events", [str(tmp_path / "found.tsv"), str(tmp_path / "found.tsv")])
    assert "| all together | - | - | - |" in capsys.readouterr().out


def test_directories_of_tables_are_scored_and_counted(tmp_path, capsys):
    (tmp_path / "true.tsv").write_text(HEAD + "/r/x.wav\t0\t1\tdog\n/r/y.wav\t\t\t\n")
    for form in ("audacity", "raven"):
        for name, events in (("x", [Event("x.wav", 0, 1, "dog")]), ("y", [])):
            path = tmp_path / form / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(write_events(events, form))
        invoke("score_events", [str(tmp_path / "true.tsv"), str(tmp_path / form)])
        told = capsys.readouterr()
        assert "| dog | 1.000 | 1.000 | 1.000 |" in told.out
        assert not told.err
        invoke("count_events", [str(tmp_path / form), "--json"])
        found = json.loads(capsys.readouterr().out)
        assert (found["files"], found["files_without_events"]) == (2, 1)
        assert found["labels"] == [{"label": "dog", "events": 1, "seconds": 1.0, "files": 1}]


def test_tables_of_one_file_need_not_name_it(tmp_path, capsys):
    (tmp_path / "true.txt").write_text("0\t1\tdog\n")
    (tmp_path / "found.tsv").write_text(HEAD + "/r/x.wav\t0\t1\tdog\n")
    invoke("score_events", [str(tmp_path / "true.txt"), str(tmp_path / "found.tsv")])
    assert "| dog | 1.000 | 1.000 | 1.000 |" in capsys.readouterr().out
    (tmp_path / "found.tsv").write_text(HEAD + "x.wav\t0\t1\tdog\ny.wav\t\t\t\n")
    with pytest.raises(InputError, match=r"true.txt does not say of which file .*found.tsv is of 2: give"):
        invoke("score_events", [str(tmp_path / "true.txt"), str(tmp_path / "found.tsv")])


def test_labels_may_lie_in_another_column(tmp_path, capsys):
    (tmp_path / "true.tsv").write_text("file\tonset\toffset\tlabel\tcode\nx.wav\t0\t1\tWren\twinwre4\n")
    (tmp_path / "found.tsv").write_text("file\tonset\toffset\tcall\nx.wav\t0\t1\twinwre4\n")
    columns = ["--label_column=code", "--found_label_column=call"]
    invoke("score_events", [str(tmp_path / "true.tsv"), str(tmp_path / "found.tsv"), *columns])
    assert "| winwre4 | 1.000 |" in capsys.readouterr().out
    invoke("count_events", [str(tmp_path / "found.tsv"), "--label_column=call"])
    assert "| winwre4 | 1 | 1.0 | 1 |" in capsys.readouterr().out


def named(*tables: str) -> list[list[str]]:
    """Common names of tables of files, by spaces."""
    files = [table.split() for table in tables]
    names = common_names([(Path(f"t{i}"), own) for i, own in enumerate(files)])
    return [[called[file] for file in own] for called, own in zip(names, files, strict=True)]


def test_files_of_one_name_in_several_directories_are_several():
    assert named("/a/x.wav", "x") == [["x"], ["x"]]
    assert named("S1/x.wav S2/x.wav y.wav", "/r/S2/x.flac /r/S1/x.flac /r/S1/y.flac") == [
        ["S1/x", "S2/x", "y"],
        ["S2/x", "S1/x", "y"],
    ]
    # of one alone the other table may say something
    assert named("S1/x.wav S2/x.wav", "C:\\r\\S2\\x.wav") == [["S1/x", "S2/x"], ["S2/x"]]
    assert named("S1/a/x S2/a/x", "r/S2/a/x") == [["S1/a/x", "S2/a/x"], ["S2/a/x"]]
    assert named("x.wav S1/x.wav", "S1/x.wav ./x.wav") == [["x", "S1/x"], ["S1/x", "x"]]
    # a dot in a name is no ending
    assert named("a.1.wav a.2.wav", "a.2 a.1") == [["a.1", "a.2"], ["a.2", "a.1"]]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            ("S1/x.wav S2/x.wav", "x.wav"),
            r"t1: x.wav may be S1/x.wav or S2/x.wav: name it with its directory",
        ),
        (("S1/x.wav S1/x.mp3", "x.wav"), r"t0: S1/x.wav and S1/x.mp3 differ in their endings alone"),
    ],
)
def test_names_that_may_be_of_several_files_are_refused(tables, message):
    with pytest.raises(InputError, match=message):
        named(*tables)


def test_files_that_the_reference_does_not_name_are_told(tmp_path, capsys):
    (tmp_path / "true.tsv").write_text(HEAD + "S1/x.wav\t0\t1\tdog\nS2/x.wav\t5\t6\tdog\n")
    (tmp_path / "found.tsv").write_text(HEAD + "S1/x.wav\t0\t1\tdog\nS2/z.wav\t5\t6\tdog\n")
    invoke("score_events", [str(tmp_path / "true.tsv"), str(tmp_path / "found.tsv")])
    told = capsys.readouterr()
    assert "| dog | 0.500 | 0.500 | 0.500 |" in told.out
    assert "1 files with events in" in told.err
    assert "such as z: what was found in them is counted as wrong" in told.err


def test_events_are_counted_by_label_day_and_hour(tmp_path, capsys):
    table = tmp_path / "found.tsv"
    rows = [
        Event("A_20230514_235900.wav", 10.0, 12.5, "wren"),
        Event("A_20230514_235900.wav", 70.0, 71.0, "wren"),
        Event("A_20230516_120000.wav", 0.0, 1.0, "owl"),
    ]
    table.write_text(write_events(rows, "tsv"))
    invoke("count_events", [str(table), "--hours=2", "--json", f"--calendar={tmp_path / 'when.png'}"])
    found = json.loads(capsys.readouterr().out)
    assert found["labels"][0] == {"label": "wren", "events": 2, "seconds": 3.5, "files": 1, "an_hour": 1.0}
    days = {(row["label"], row["day"], row["hour"]): row["events"] for row in found["by_hour"]}
    # the second one begins after midnight
    assert days == {("owl", "2023-05-16", 12): 1, ("wren", "2023-05-14", 23): 1, ("wren", "2023-05-15", 0): 1}
    assert (tmp_path / "when.png").read_bytes().startswith(b"\x89PNG")
    invoke("count_events", [str(table)])
    assert "| wren | 2 | 3.5 | 1 |" in capsys.readouterr().out
    table.write_text(write_events([Event("x.wav", 0, 1, "owl")], "tsv"))
    with pytest.raises(InputError, match="no file is named by its date"):
        invoke("count_events", [str(table), f"--calendar={tmp_path / 'when.png'}"])


def test_hours_are_those_of_the_sounds_that_the_table_names(tmp_path, capsys):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for name, seconds in (("A_20230514_065950", 20), ("A_20230516_120000", 16), ("other", 5)):
        soundfile.write(sounds / f"{name}.wav", np.zeros(8000 * seconds), 8000)
    (sounds / "broken.wav").write_bytes(b"RIFF")
    rows = [Event("/r/A_20230514_065950.wav", 1.0, 2.0, "wren"), Event("A_20230516_120000.wav", 0, 0, "")]
    table = tmp_path / "found.tsv"
    table.write_text(write_events(rows, "tsv"))
    picture = f"--calendar={tmp_path / 'when.png'}"
    invoke("count_events", [str(table), f"--sounds={sounds}", "--json", picture])
    told = capsys.readouterr()
    assert told.err == f"2 sound files below {sounds} are not in {table}: not counted\n"
    found = json.loads(told.out)
    assert (found["hours"], found["labels"][0]["an_hour"]) == (0.01, 100.0)
    hours = [("2023-05-14", 6, 10.0), ("2023-05-14", 7, 10.0), ("2023-05-16", 12, 16.0)]
    assert found["recorded"] == [{"day": d, "hour": h, "seconds": s} for d, h, s in hours]
    # the picture knows it too
    counts = Counter({("wren", "2023-05-14", 6): 1})
    assert (tmp_path / "when.png").read_bytes() == calendar(counts, {(day, hour) for day, hour, _ in hours})
    invoke("count_events", [str(table), f"--sounds={sounds}"])
    told = capsys.readouterr()
    assert "| wren | 1 | 1.0 | 1 | 100.0 |" in told.out
    assert "2 files, 1 of them without events, 0.01 hours" in told.err
    table.write_text(write_events([*rows, Event("broken.wav", 0, 0, "")], "tsv"))
    invoke("count_events", [str(table), f"--sounds={sounds}"])
    assert "1 files cannot be opened, such as broken.wav: 0 s" in capsys.readouterr().err
    table.write_text(write_events([*rows, Event("B/x.wav", 0, 1, "wren")], "tsv"))
    with pytest.raises(InputError, match=r"1 files of .*found.tsv are not below .*sounds, such as B/x.wav"):
        invoke("count_events", [str(table), f"--sounds={sounds}"])
    with pytest.raises(InputError, match="--hours and --sounds both say how long"):
        invoke("count_events", [str(table), f"--sounds={sounds}", "--hours=1"])


def test_a_recording_lasts_into_other_hours_and_days():
    seconds = {"A_20230514_233000.wav": 2 * 3600 + 60, "A_20230515_003000.wav": 60, "undated.wav": 60}
    assert recorded(seconds) == {
        ("2023-05-14", 23): 1800,
        ("2023-05-15", 0): 3660,
        ("2023-05-15", 1): 1860,
    }


def test_hours_without_a_recording_are_grey():
    """Cells are as many as the hours that are grey; one that has an event is none."""
    counts = Counter({("wren", "2023-05-14", 6): 1})
    grey = []
    day = {("2023-05-14", hour) for hour in range(24)}
    half = {("2023-05-14", hour) for hour in range(12)}
    for hours in (half, {("2023-05-14", 0)}, set(), None, day, day | {("2023-05-16", 0)}):
        pixels = matplotlib.image.imread(io.BytesIO(calendar(counts, hours)))[..., :3]
        grey.append(int((np.abs(pixels - np.array([0xE3, 0xE6, 0xEA]) / 255).max(axis=-1) < 0.01).sum()))
    # but for edges of letters
    assert max(grey[3], grey[4]) < 50 < grey[2]
    # days on which nothing was heard are there
    assert grey[5] > 50
    assert grey[0] / grey[2] == pytest.approx(12 / 23, abs=0.02)
    assert grey[1] / grey[2] == pytest.approx(22 / 23, abs=0.02)
