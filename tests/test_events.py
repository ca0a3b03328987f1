"""Events: off scores as a direct statement has them, whatever pieces they come in; metrics as sed_eval
counts; tables of other programs there and back.
"""

import csv
import dataclasses
import io
import math
import sys
import warnings
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from scipy.ndimage import median_filter

from ast_jax.errors import InputError
from ast_jax.events import FORMS, Decoder, Event, Rules, read_events, read_files, write_events
from ast_jax.events.decode import Stretch
from ast_jax.events.metrics import event_based, overlap_based, segment_based
from ast_jax.events.psds import PSDS1, PSDS2, Scenario, psds
from ast_jax.events.summary import started
from ast_jax.events.table import rows_of

STEP_S = 0.1


def direct(scores: np.ndarray, thresholds: np.ndarray, rules: Rules) -> list[tuple[int, int, int, float]]:
    """The same on the whole sound, class by class, run by run."""
    found = []
    for label, high in enumerate(thresholds):
        s = median_filter(scores[:, label], 2 * (round(rules.median_s / STEP_S) // 2) + 1, mode="nearest")
        above = np.concatenate([[False], s >= rules.low * high, [False]]).astype(int)
        starts, ends = np.flatnonzero(np.diff(above) == 1), np.flatnonzero(np.diff(above) == -1)
        runs = [[a, b, s[a:b].max()] for a, b in zip(starts, ends, strict=True) if s[a:b].max() >= high]
        joined: list[list] = []
        for run in runs:
            if joined and run[0] - joined[-1][1] < round(rules.min_gap_s / STEP_S, 6):
                joined[-1] = [joined[-1][0], run[1], max(joined[-1][2], run[2])]
            else:
                joined.append(run)
        least = round(rules.min_duration_s / STEP_S, 6)
        found += [(label, a, b, score) for a, b, score in joined if b - a >= least]
    return sorted(found)


def decoded(scores: np.ndarray, cuts: list[int], thresholds: np.ndarray, rules: Rules) -> list[Stretch]:
    decoder = Decoder(rules, thresholds, STEP_S)
    found = []
    for piece in np.split(scores, cuts):
        found += decoder.push(piece)
    return found + list(decoder.end())


@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    median=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]),
    low=st.sampled_from([0.3, 0.6, 1.0]),
    duration=st.sampled_from([0.0, 0.2, 0.5]),
    gap=st.sampled_from([0.0, 0.1, 0.3, 0.8]),
)
@tried(400)
def test_pieces_of_any_size_give_the_events_of_the_whole(seed, steps, cuts, median, low, duration, gap):
    rng = np.random.default_rng(seed)
    scores, thresholds = rng.random((steps, 2)) ** 2, np.array([0.3, 0.6])
    rules = Rules(median, low, duration, gap)
    wanted = direct(scores, thresholds, rules) if steps else []
    pieces = sorted(min(cut, steps) for cut in cuts)
    found = sorted((e.label, e.start, e.end, e.score) for e in decoded(scores, pieces, thresholds, rules))
    assert found == wanted


def test_an_event_is_given_back_before_the_sound_ends():
    decoder = Decoder(Rules(min_gap_s=0.3), np.array([0.5]), STEP_S)
    assert list(decoder.push(np.array([[0.0], [0.9], [0.9], [0.0], [0.0]]))) == []
    assert list(decoder.push(np.array([[0.0]]))) == [Stretch(0, 1, 3, 0.9)]
    # the next one goes on, too far away to be the same
    assert list(decoder.push(np.array([[0.8], [0.0], [0.0], [0.0], [0.9]]))) == [Stretch(0, 6, 7, 0.8)]
    assert list(decoder.end()) == [Stretch(0, 10, 11, 0.9)]


@pytest.mark.parametrize("rules", [{"low": 0.0}, {"low": 1.5}, {"low": math.nan}, {"median_s": -1.0}])
def test_rules_that_make_no_sense_are_refused(rules):
    with pytest.raises(InputError, match="wanted"):
        Rules(**rules)


EVENTS = [
    Event("a.wav", 0.0, 1.25, "dog", 0.9123),
    Event("a.wav", 0.5, 2.0, 'bird; "tit", great', 0.5),
    Event("a.wav", 3.0, 3.001, "Hörner", 0.25),
]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_back(form, tmp_path):
    path = tmp_path / f"events{FORMS[form]}"
    path.write_text(write_events(EVENTS, form), encoding="utf-8")
    wanted = [event._replace(score=None) for event in EVENTS] if form == "audacity" else EVENTS
    assert read_events(path, "a.wav") == wanted


def test_raven_and_audacity_are_laid_out_as_their_manuals_say():
    rows = list(csv.DictReader(io.StringIO(write_events(EVENTS, "raven")), delimiter="\t"))
    assert rows[0]["Selection"] == "1"
    assert (rows[1]["Begin Time (s)"], rows[1]["End Time (s)"]) == ("0.500", "2.000")
    assert rows[1]["Label"] == 'bird; "tit", great'
    assert write_events(EVENTS[:1], "audacity") == "0.000\t1.250\tdog\n"
    assert write_events([], "json") == "[\n]\n"
    # as a program reads it that knows nothing of quotes
    track = list(
        csv.reader(io.StringIO(write_events(EVENTS, "audacity")), "excel-tab", quoting=csv.QUOTE_NONE)
    )
    assert [(float(on), float(off), label) for on, off, label in track] == [e[1:4] for e in EVENTS]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dcase.tsv", "filename\tonset\toffset\tevent_label\na.wav\t0.5\t2\tdog\n"),
        ("audioset.tsv", "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\na.wav\t0.5\t2.0\tdog\n"),
        ("track.txt", "0.5\t2.0\tdog\n\\\t100.0\t2000.0\n"),
        ("raven.txt", "Selection\tView\tBegin Time (s)\tEnd Time (s)\tSpecies\n1\tS 1\t0.5\t2.0\tdog\n"),
        ("speech.rttm", "SPEAKER a.wav 1 0.5 1.5 <NA> <NA> dog <NA> <NA>\n"),
        ("own.csv", "label,offset,onset\n dog , 2.0,.5\n"),
        ("audioset.tsv", "a.wav\t0.5\t2.0\tdog\n"),
        (
            "birdnet.csv",
            "Start (s),End (s),Scientific name,Common name,Confidence,File\n.5,2,C l,dog,,a.wav\n",
        ),
    ],
)
def test_tables_of_others_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_events(tmp_path / name, "a.wav") == [Event("a.wav", 0.5, 2.0, "dog")]


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\t"


def test_a_selection_in_two_views_of_raven_is_one(tmp_path):
    rows = ["1\tWaveform 1\t1\t0.5\t2.0\tdog", "1\tSpectrogram 1\t1\t0.5\t2.0\tdog"]
    rows += ["2\tSpectrogram 1\t1\t0.5\t2.0\tdog", "1\tSpectrogram 1\t1\t7.0\t8.0\tdog"]
    (tmp_path / "t.txt").write_text("\n".join([RAVEN + "Annotation", *rows, ""]))
    # another number is another selection; another place is one of another table
    assert [e.onset_s for e in read_events(tmp_path / "t.txt")] == [0.5, 0.5, 7.0]


def test_a_raven_table_of_several_files_says_where_in_each(tmp_path):
    columns = RAVEN + "Begin Path\tFile Offset (s)\tBegin File\tAnnotation\n"
    rows = "1\tSpectrogram 1\t1\t3.5\t5.0\t/r/A/x.wav\t3.5\tx.wav\tdog\n"
    rows += "2\tSpectrogram 1\t1\t63.25\t63.5\t/r/A/y.wav\t3.25\ty.wav\tdog\n"
    table = tmp_path / "t.txt"
    table.write_text(columns + rows)
    assert read_events(table) == [Event("x.wav", 3.5, 5.0, "dog"), Event("y.wav", 3.25, 3.5, "dog")]
    # of one name, in two directories
    table.write_text(columns + rows.replace("/A/y.wav", "/B/x.wav").replace("y.wav", "x.wav"))
    assert [e.file for e in read_events(table)] == ["/r/A/x.wav", "/r/B/x.wav"]
    table.write_text(columns + rows.replace("\t3.25\t", "\t3:25\t"))
    with pytest.raises(InputError, match=r"line 3: File Offset \(s\) '3:25': wanted a number"):
        read_events(table)


BIRDNET = (
    RAVEN
    + "Low Freq (Hz)\tHigh Freq (Hz)\tCommon Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)\n"
)


def test_birdnets_tables_are_read_by_common_name_or_by_code(tmp_path):
    table = tmp_path / "x.BirdNET.selection.table.txt"
    table.write_text(
        BIRDNET + "1\tSpectrogram 1\t1\t3.0\t6.0\t0\t15000\tEurasian Wren\twinwre4\t0.81\t/r/x.wav\t3.0\n"
    )
    assert read_events(table) == [Event("/r/x.wav", 3.0, 6.0, "Eurasian Wren", 0.81)]
    assert read_events(table, label_column="Species Code")[0].label == "winwre4"
    with pytest.raises(InputError, match="needs the column code: its columns are selection"):
        read_events(table, label_column="code")
    table.write_text(BIRDNET + "1\tSpectrogram 1\t1\t0\t3\t0\t15000\tnocall\tnocall\t1.0\t/r/x.wav\t0\n")
    assert read_files(table) == {"/r/x.wav": []}
    (tmp_path / "track.txt").write_text("0.5\t2.0\tdog\n")
    with pytest.raises(InputError, match="does not name its columns: there is no code"):
        read_events(tmp_path / "track.txt", label_column="code")


def test_a_label_of_no_length_is_no_event_and_told(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("0.5\t2.0\tdog\n3.0\t3.0\there\n4\t4.0\t\n")
    assert read_events(tmp_path / "t.txt", "a.wav") == [Event("a.wav", 0.5, 2.0, "dog")]
    assert "t.txt: 2 labels of length 0 are left out, the first in line 2" in capsys.readouterr().err
    (tmp_path / "t.txt").write_text("3.0\t3.0\there\n")
    assert read_files(tmp_path / "t.txt", "a.wav") == {"a.wav": []}


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "t.tsv",
            "filename\tonset\toffset\tevent_label\nb.wav\t\t\t\na.wav\t0\t1\tdog\n",
            {"b.wav": 0, "a.wav": 1},
        ),
        ("t.tsv", "filename\tonset\toffset\tevent_label\n", {}),
        ("t.txt", RAVEN + "Annotation\n", {"": 0}),
        ("t.txt", "", {"": 0}),
        ("t.rttm", "", {"": 0}),
        ("t.json", "[]", {}),
        ("t.json", '[{"file": "a.wav", "onset_s": null, "offset_s": null, "label": null}]', {"a.wav": 0}),
    ],
)
def test_files_in_which_nothing_is_are_read(tmp_path, name, text, wanted):
    (tmp_path / name).write_text(text)
    assert {file: len(events) for file, events in read_files(tmp_path / name).items()} == wanted
    assert len(read_events(tmp_path / name)) == sum(wanted.values())


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_which_nothing_is_is_written_and_read_back(form, tmp_path):
    path = tmp_path / f"b{FORMS[form]}"
    several = [*EVENTS, *rows_of("b.wav", [])] if form in ("tsv", "csv", "json") else rows_of("b.wav", [])
    path.write_text(write_events(several, form), encoding="utf-8")
    assert read_files(path, "b.wav")["b.wav"] == []
    assert rows_of("a.wav", EVENTS) == EVENTS


def test_a_directory_of_tables_is_read_as_one(tmp_path):
    for name, form in (("A/x", "audacity"), ("B/x.1", "audacity"), ("B/y", "raven"), ("z", "tsv")):
        path = tmp_path / f"{name}{FORMS[form]}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(write_events([Event("y.wav", 1.0, 2.0, name)], form))
    (tmp_path / "A" / "quiet.Table.1.selections.txt").write_text(RAVEN + "Annotation\n")
    (tmp_path / "A" / "._x.txt").write_bytes(b"\0")
    found = {file: [e.label for e in events] for file, events in read_files(tmp_path).items()}
    wanted = {"A/x": ["A/x"], "A/quiet": [], "B/x.1": ["B/x.1"], "B/y.wav": ["B/y"], "y.wav": ["z"]}
    assert found == wanted
    (tmp_path / "A" / "x.selections.txt").write_text(RAVEN + "Annotation\n")
    with pytest.raises(InputError, match=r"A/x.selections.txt and .*A/x.txt are both tables of A/x: which"):
        read_events(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none has no tables of events"):
        read_events(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "file\tonset\toffset\tlabel\na\t2\t1\tdog\n", "line 2: 2 to 1: wanted seconds"),
        ("t.tsv", "file\tonset\toffset\tlabel\na\tnan\t1\tdog\n", "line 2: nan to 1: wanted seconds"),
        ("t.tsv", "file\tonset\toffset\tlabel\na\t0\t1\t\n", "line 2: an event without a label"),
        ("t.csv", "file,onset,label\na,0,dog\n", "needs the column offset"),
        ("t.txt", "0.5\t2.0\tdog\n1.0 2.0 cat\n", "line 2: wanted onset, offset and label by tabs"),
        ("t.rttm", "SPEAKER a 1 x 1 <NA> <NA> dog\n", "line 1: wanted SPEAKER"),
        ("t.json", "{}", "wanted a list of objects"),
        ("t.json", '[{"onset_s": 1}]', "event 1: 1 to None"),
        ("t.csv", "", "has no events"),
        ("t.tsv", "file\tonset\toffset\tlabel\na\t\t1\t\n", "line 2:  to 1: wanted seconds"),
        ("t.tsv", "label\tonset\toffset\tscore\n\t\t\t1\n", "line 2:  to : wanted seconds"),
    ],
)
def test_a_wrong_table_is_told_with_its_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_events(tmp_path / name)
    assert "\n" not in str(caught.value)


def random_events(rng: np.random.Generator, count: int) -> list[Event]:
    onsets, lengths = rng.random(count) * 20, 0.05 + rng.random(count) * 3
    return [
        Event(f"{rng.integers(3)}.wav", round(on, 2), round(on + length, 2), "abcd"[rng.integers(4)])
        for on, length in zip(onsets, lengths, strict=True)
    ]


def shaken(rng: np.random.Generator, events: list[Event]) -> list[Event]:
    """Some of them, their beginnings and ends moved, and five others."""
    kept = [event for event in events if rng.random() < 0.8]
    moved = [
        event._replace(
            onset_s=max(0, round(event.onset_s + rng.normal(0, 0.15), 2)),
            offset_s=round(event.offset_s + rng.normal(0, 0.3), 2),
        )
        for event in kept
    ]
    return [event for event in moved if event.offset_s > event.onset_s] + random_events(rng, 5)


@pytest.mark.parametrize("scenario", [PSDS1, PSDS2, Scenario(0.5, 0.5, 0.3, 1.0, 0.0)])
def test_psds_is_psds_evals(scenario):
    """30 random sets in all, at six thresholds; to 1e-6."""
    psds_eval = pytest.importorskip("psds_eval", reason="psds_eval comes with requirements-parity.txt")
    pandas = pytest.importorskip("pandas")
    warnings.simplefilter("ignore")
    frame = lambda events: pandas.DataFrame(
        [(e.file, e.onset_s, e.offset_s, e.label) for e in events],
        columns=["filename", "onset", "offset", "event_label"],
    )
    told = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truth = apart(random_events(rng, int(rng.integers(5, 30))))
        labels = {e.label for e in truth}
        points = [
            [e for e in apart(shaken(rng, truth)) if e.label in labels and rng.random() < share]
            for share in (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
        ]
        files = sorted({e.file for e in truth} | {e.file for events in points for e in events})
        meta = pandas.DataFrame({"filename": files, "duration": [60.0] * len(files)})
        theirs = psds_eval.PSDSEval(
            ground_truth=frame(truth),
            metadata=meta,
            dtc_threshold=scenario.detection,
            gtc_threshold=scenario.event,
            cttc_threshold=min(scenario.cross, 1.0),
        )
        for events in points:
            theirs.add_operating_point(frame(events))
        steps = theirs.psd_roc_curves(scenario.cross_weight)[2].xp
        # one of its own steps: it adds another one by what numpy no longer does
        most = float(steps[rng.integers(len(steps) // 2, len(steps))])
        weights = {"alpha_ct": scenario.cross_weight, "alpha_st": scenario.spread_weight}
        wanted = theirs.psds(**weights, max_efpr=most).value
        limited = dataclasses.replace(scenario, most_an_hour=most)
        found = psds(truth, points, hours=len(files) / 60, scenario=limited)
        assert found == pytest.approx(wanted, abs=1e-6), seed
        told.append(wanted)
    assert max(told) > 0.05
    assert len(set(told)) > 5


def apart(events):
    """Without those of a label that overlap, which psds_eval refuses."""
    kept: list[Event] = []
    for event in sorted(events, key=lambda e: e.onset_s):
        same = [e for e in kept if (e.file, e.label) == (event.file, event.label)]
        if all(e.offset_s < event.onset_s for e in same):
            kept.append(event)
    return kept


def test_event_and_segment_based_counts_are_sed_evals(monkeypatch):
    # which setuptools no longer has; dcase_util asks for it to find examples of its own
    monkeypatch.setitem(sys.modules, "pkg_resources", ModuleType("pkg_resources"))
    warnings.simplefilter("ignore")
    sed_eval = pytest.importorskip("sed_eval", reason="sed_eval comes with requirements-parity.txt")
    dcase_util = pytest.importorskip("dcase_util")
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = random_events(rng, int(rng.integers(1, 30)))
        found = shaken(rng, truth)
        labels = sorted({e.label for e in truth + found})
        theirs = {
            "event": sed_eval.sound_event.EventBasedMetrics(labels, t_collar=0.2, percentage_of_length=0.2),
            "segment": sed_eval.sound_event.SegmentBasedMetrics(labels, time_resolution=1.0),
        }
        for file in sorted({e.file for e in truth + found}):
            lists = [
                dcase_util.containers.MetaDataContainer(
                    [
                        {"filename": file, "event_label": e.label, "onset": e.onset_s, "offset": e.offset_s}
                        for e in events
                        if e.file == file
                    ]
                )
                for events in (truth, found)
            ]
            for metric in theirs.values():
                metric.evaluate(reference_event_list=lists[0], estimated_event_list=lists[1])
        for ours, metric in ((event_based(truth, found), "event"), (segment_based(truth, found), "segment")):
            overall = theirs[metric].results_overall_metrics()["f_measure"]
            assert ours.micro.f1 == pytest.approx(overall["f_measure"], abs=1e-6)
            assert ours.micro.precision == pytest.approx(overall["precision"], abs=1e-6)
            classes = theirs[metric].results_class_wise_metrics()
            for label in labels:
                wanted = classes[label]["f_measure"]["f_measure"]
                assert ours.labels[label].f1 == pytest.approx(0 if math.isnan(wanted) else wanted, abs=1e-6)


def test_a_lenient_match_shares_half_of_both():
    truth = [Event("a", 0.0, 2.0, "x"), Event("a", 5.0, 6.0, "x")]
    found = [Event("a", 0.5, 2.4, "x"), Event("a", 5.6, 7.0, "x"), Event("a", 0.0, 2.0, "y")]
    # 1.5 of 2.4 s, then .4 of 2 s; y is nowhere
    counts = overlap_based(truth, found).labels
    assert (counts["x"].found, counts["x"].reference, counts["x"].estimated) == (1, 2, 2)
    assert (counts["y"].found, counts["y"].estimated) == (0, 1)
    assert overlap_based(truth, found).macro_f1 == 0.5
    # all of it is covered, by an event three times as long
    long = overlap_based([Event("a", 1.0, 2.0, "x")], [Event("a", 0.0, 3.0, "x")])
    assert long.micro.found == 0


def test_one_event_is_found_once():
    truth, twice = [Event("a", 1.0, 2.0, "x")], [Event("a", 1.0, 2.0, "x"), Event("a", 1.1, 2.0, "x")]
    assert event_based(truth, twice).micro.precision == 0.5
    # each fits one, but only if the first does not take the other's
    truth, found = (
        [Event("a", 1.0, 2, "x"), Event("a", 1.2, 2, "x")],
        [
            Event("a", 1.15, 2, "x"),
            Event("a", 0.9, 2, "x"),
        ],
    )
    assert event_based(truth, found).micro.found == 2


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("SITE_20230514_063000.wav", "2023-05-14 06:30:00"),
        ("/a/20230514_063000.WAV", "2023-05-14 06:30:00"),
        ("S4A01234_20230514T235959+0200.flac", "2023-05-14 23:59:59"),
        ("20230514-063000_left.wav", "2023-05-14 06:30:00"),
        ("20230231_063000.wav", None),
        ("rec_1234567890123456.wav", None),
        ("dog.wav", None),
    ],
)
def test_a_recorders_name_says_when_it_begins(file, wanted):
    found = started(file)
    assert (None if found is None else str(found)) == wanted
