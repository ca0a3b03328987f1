"""Tables of events as a data set: what is known of which file, what becomes of pieces and mixtures, and a
model taught by events finds them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax import load_model
from ast_jax.commands import invoke
from ast_jax.datasets import events
from ast_jax.datasets.listing import Clip
from ast_jax.datasets.pipeline import FrameGrid, fit
from ast_jax.datasets.prepare import find, prepare
from ast_jax.errors import InputError
from ast_jax.evaluation.events import told
from ast_jax.events import Event
from ast_jax.events.metrics import overlap_based
from ast_jax.inference.predict import Tagger
from ast_jax.recipes import parse
from ast_jax.training.loop import train

ROOT = Path(__file__).resolve().parents[1]
HEAD = "file\tonset\toffset\tlabel\n"
GRID = FrameGrid(first_s=0.05, step_s=0.1, num=10)


def put(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=round(16_000 * seconds)), 16_000)
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("a", "b", "c", "d", "deep/e"):
        put(tmp_path / f"{name}.wav")
    (tmp_path / "train.tsv").write_text(HEAD + "a.wav\t0.2\t0.5\tdog\na.wav\t0.4\t0.9\train\nb.wav\t\t\t\n")
    (tmp_path / "test.tsv").write_text(HEAD + "c.wav\t0\t1\train\n")
    return tmp_path


def test_events_files_without_any_and_files_in_no_table(tree):
    listing = events.list_clips(tree, tables={"train": "train.tsv", "test": "test.tsv"})
    assert listing.label_names == ("dog", "rain")
    assert listing.events == {"a": [(0.2, 0.5, 0), (0.4, 0.9, 1)], "b": [], "c": [(0.0, 1.0, 1)]}
    assert [(clip.id, clip.labels) for clip in listing.splits["train"]] == [("a", (0, 1)), ("b", ())]
    assert sorted(Path(path).name for path, *_ in listing.left_out) == ["d.wav", "e.wav"]
    assert listing.notes["told"] == [
        "3 files with events, 1 of them with none",
        "2 sound files are in no table: left out",
    ]
    both = events.list_clips(tree, tables={"train": "train.tsv"}, negatives=True)
    assert {clip.id: clip.labels for clip in both.splits["train"]} == {
        "a": (0, 1), "b": (), "c": (), "d": (), "e": ()
    }  # fmt: skip


def test_files_of_which_only_the_labels_are_known(tree):
    (tree / "weak.csv").write_text("file,labels\nd.wav,dog;rain\ndeep/e.wav,rain\n")
    listing = events.list_clips(tree, tables={"train": "train.tsv"}, weak={"train": "weak.csv"})
    assert {clip.id: clip.labels for clip in listing.splits["train"]}["d"] == (0, 1)
    assert set(listing.events) == {"a", "b"}
    prepared = prepare(
        "events",
        source_dir=tree,
        data_dir=tree / "data",
        options={"tables": {"train": "train.tsv"}, "weak": {"train": "weak.csv"}},
    )
    by_id = dict(zip(prepared.ids("train"), prepared.events("train"), strict=True))
    assert by_id["d"] is None
    assert by_id["b"].shape == (0, 3)
    assert by_id["a"].tolist() == [[0.2, 0.5, 0], [0.4, 0.9, 1]]
    examples = {example["id"]: example for example in prepared.source("train")}
    assert "events" not in examples["d"]
    assert examples["a"]["events"].tolist() == by_id["a"].tolist()


def test_desed_in_its_own_layout(tmp_path):
    for name in ("train/weak/w1", "train/synthetic21_train/soundscapes/s1", "validation/validation/v1"):
        put(tmp_path / f"audio/{name}.wav")
    head = "filename\tonset\toffset\tevent_label\n"
    tables = {
        "train/weak.tsv": "filename\tevent_labels\nw1.wav\tSpeech,Dog\n",
        "train/synthetic21_train/soundscapes.tsv": head + "s1.wav\t0.1\t0.5\tDog\n",
        "validation/validation.tsv": head + "v1.wav\t0.2\t0.9\tSpeech\n",
    }
    for name, text in tables.items():
        path = tmp_path / "metadata" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    options = parse([f"--config={ROOT / 'configs/desed.py'}"])[0].dataset.options
    listing = events.list_clips(tmp_path, **options.to_dict())
    assert listing.label_names == ("Dog", "Speech")
    found = {split: {clip.id: clip.labels for clip in clips} for split, clips in listing.splits.items()}
    assert found == {"train": {"s1": (0,), "w1": (0, 1)}, "test": {"v1": (1,)}}
    assert listing.events == {"s1": [(0.1, 0.5, 0)], "v1": [(0.2, 0.9, 1)]}


def test_audiosets_strong_labels_in_their_own_layout(tmp_path):
    head = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    for split, name in (("train", "b0RFKhbpFJA_30000"), ("eval", "-0RWZT-miFs_420000")):
        put(tmp_path / f"audio/{name}.wav")
        (tmp_path / f"audioset_{split}_strong.tsv").write_text(head + f"{name}\t0.0\t0.8\t/m/0bt9lr\n")
    options = parse([f"--config={ROOT / 'configs/audioset_strong.py'}"])[0].dataset.options
    listing = events.list_clips(tmp_path, **options.to_dict())
    assert listing.label_names == ("/m/0bt9lr",)
    assert listing.events["b0RFKhbpFJA_30000"] == [(0.0, 0.8, 0)]
    assert [clip.id for clip in listing.splits["test"]] == ["-0RWZT-miFs_420000"]


def test_files_in_two_places_are_refused(tree):
    with pytest.raises(InputError, match=r"a.wav is in several splits"):
        events.list_clips(tree, tables={"train": "train.tsv", "test": "train.tsv"})
    with pytest.raises(InputError, match=r"both name .*a.wav"):
        events.list_clips(tree, tables={"train": ["train.tsv", "train.tsv"]})
    with pytest.raises(InputError, match=r"sounds_dir names no directory for train.tsv"):
        events.list_clips(tree, tables={"train": "train.tsv"}, sounds_dir=[("x", "y")])
    (tree / "none.tsv").write_text("filename\tonset\toffset\tevent_label\n")
    with pytest.raises(InputError, match=r"none.tsv names no file"):
        events.list_clips(tree, tables={"train": "none.tsv"})
    with pytest.raises(InputError, match=r"no directory .*nowhere"):
        events.list_clips(tree, tables={"train": "train.tsv"}, sounds_dir="nowhere")


def test_a_table_beside_each_sound(tmp_path):
    for number in range(6):
        put(tmp_path / f"x{number}.wav")
        (tmp_path / f"x{number}.txt").write_text("0.1\t0.4\tdog\n")
    listing = events.list_clips(tmp_path)
    assert {split: len(clips) for split, clips in listing.splits.items()} == {"train": 5, "test": 1}
    assert listing.events["x3"] == [(0.1, 0.4, 0)]
    (tmp_path / "x0.selections.txt").write_text("0.1\t0.4\tdog\n")
    with pytest.raises(InputError, match=r"x0.wav has several tables: x0.selections.txt, x0.txt"):
        events.list_clips(tmp_path)


def test_events_change_what_a_set_is_known_by(tree):
    def directory():
        return prepare(
            "events", source_dir=tree / "train.tsv", data_dir=tree / "data", progress=False
        ).directory

    (tree / "train.tsv").write_text(HEAD + "a.wav\t0.2\t0.5\tdog\nb.wav\t0\t1\tdog\n")
    before = directory()
    (tree / "train.tsv").write_text(HEAD + "a.wav\t0.2\t0.6\tdog\nb.wav\t0\t1\tdog\n")
    assert directory() != before


def test_pieces_have_the_events_that_reach_into_them(tmp_path):
    put(tmp_path / "long.wav", 3.0)
    put(tmp_path / "other.wav", 1.0)
    rows = "long.wav\t0.5\t1.5\tdog\nlong.wav\t2.2\t2.4\train\nother.wav\t0\t1\tdog\n"
    (tmp_path / "t.tsv").write_text(HEAD + rows)
    prepared = prepare(
        "events",
        source_dir=tmp_path,
        data_dir=tmp_path / "data",
        options={"tables": {"train": "t.tsv"}, "cut_s": 1.0},
    )
    by_id = dict(zip(prepared.ids("train"), prepared.events("train"), strict=True))
    found = {id: [[round(x, 6) for x in event] for event in own.tolist()] for id, own in by_id.items()}
    assert found == {
        "long@0": [[0.5, 1.0, 0]],
        "long@1": [[0.0, 0.5, 0]],
        "long@2": [[0.2, 0.4, 1]],
        "other": [[0.0, 1.0, 0]],
    }


@pytest.fixture
def cut_tree(tmp_path) -> Path:
    """A file of 3 s with a dog at .5 s and rain at 2.2 s, one with labels alone, and a short one of those."""
    put(tmp_path / "a.wav", 3.0)
    put(tmp_path / "vague.wav", 2.0)
    put(tmp_path / "short.wav", 0.8)
    (tmp_path / "t.tsv").write_text(HEAD + "a.wav\t0.5\t0.8\tdog\na.wav\t2.2\t2.4\train\n")
    (tmp_path / "weak.csv").write_text("file,labels\nvague.wav,dog\nshort.wav,dog;rain\n")
    return tmp_path


CUT = {"tables": {"train": "t.tsv"}, "weak": {"train": "weak.csv"}, "cut_s": 1.0}


def by_id(prepared, values) -> dict:
    return {id: np.asarray(own).tolist() for id, own in zip(prepared.ids("train"), values, strict=True)}


def test_pieces_have_the_labels_of_their_own_events(cut_tree):
    prepared = prepare("events", source_dir=cut_tree, data_dir=cut_tree / "data", options=CUT)
    wanted = {"a@0": [0], "a@1": [], "a@2": [1], "short": [0, 1], "vague@0": [], "vague@1": []}
    assert by_id(prepared, prepared.label_sets("train")) == wanted
    # what the shards hold
    assert {example["id"]: list(example["labels"]) for example in prepared.source("train")} == wanted
    assert prepared.class_counts("train").tolist() == [2, 2]
    # A piece of a file with labels alone: that there is no rain is known, not whether its dog is here.
    everything, partly = [True, True], [False, True]
    known = dict.fromkeys(wanted, everything) | {"vague@0": partly, "vague@1": partly}
    assert by_id(prepared, prepared.known("train")) == known
    assert prepared.metadata["notes"]["told"][-1] == (
        "2 pieces are of files of which it is not known when: their labels are unknown"
    )


def test_pieces_of_a_set_without_events_keep_the_label_of_their_file(tmp_path):
    for name in ("train/dog/a", "train/rain/b", "test/dog/c", "test/rain/d"):
        put(tmp_path / f"{name}.wav", 2.0)
    options = {"cut_s": 1.0, "layout": "split/class"}
    prepared = prepare("folder", source_dir=tmp_path, data_dir=tmp_path / "data", options=options)
    found = by_id(prepared, prepared.label_sets("train"))
    assert found == {"a@0": [0], "a@1": [0], "b@0": [1], "b@1": [1]}
    assert prepared.known("train") is None


def test_a_set_from_before_pieces_had_labels_of_their_own_is_prepared_again(cut_tree, monkeypatch):
    where = {"source_dir": cut_tree, "data_dir": cut_tree / "data", "options": CUT, "progress": False}
    with monkeypatch.context() as before:
        # as it was: labels of the whole file, nothing of it in the set's name or metadata
        before.setattr(Clip, "labels_in", lambda clip, start_s, length_s, piece: clip.labels)
        name = lambda listing, source, how, contents=None: (
            f"{how.kind}-{listing.fingerprint(source, how.identity, contents)}"
        )
        for module in ("prepare", "builder"):
            before.setattr(f"ast_jax.datasets.{module}.set_name", name)
        old = prepare("events", **where)
    about = json.loads((old.directory / "metadata.json").read_text())
    del about["labels_of"]
    (old.directory / "metadata.json").write_text(json.dumps(about))
    assert by_id(old, old.label_sets("train"))["a@1"] == [0, 1]
    without_sounds = {"data_dir": cut_tree / "data", "kind": "log_mel", "options": CUT}
    assert find("events", **without_sounds) is None
    new = prepare("events", **where)
    assert new.directory != old.directory
    assert by_id(new, new.label_sets("train"))["a@1"] == []
    # only labels are other: the sounds come from what was there
    assert new.metadata["num_kept"] == 3
    assert find("events", **without_sounds).directory == new.directory


@pytest.mark.parametrize("cut", [{}, {"cut_s": 1.0}])
def test_an_event_after_the_end_of_its_file_is_told_and_its_label_goes(tmp_path, cut):
    put(tmp_path / "a.wav", 2.0)
    put(tmp_path / "b.wav", 2.0)
    rows = "a.wav\t0.5\t9\tdog\na.wav\t2.5\t3\train\nb.wav\t0.1\t0.2\train\nb.wav\t7\t8\train\n"
    (tmp_path / "t.tsv").write_text(HEAD + rows)
    options = {"tables": {"train": "t.tsv"}, **cut}
    prepared = prepare("events", source_dir=tmp_path, data_dir=tmp_path / "data", options=options)
    found: dict[str, set] = {}
    for id, labels in by_id(prepared, prepared.label_sets("train")).items():
        found.setdefault(id[0], set()).update(labels)
    # b has another rain
    assert found == {"a": {0}, "b": {1}}
    assert prepared.metadata["notes"]["told"][-1] == (
        "2 events begin after the end of what is stored: left out, see skipped.csv"
    )
    assert (prepared.directory / "skipped.csv").read_text().splitlines()[1:] == [
        "a,,event left out,rain at 2.5 s: what is stored of its file ends at 2 s",
        "b,,event left out,rain at 7 s: what is stored of its file ends at 2 s",
    ]


@pytest.mark.parametrize("place", ["../audio", "./../audio/"])
def test_a_directory_of_sounds_in_another_spelling(tmp_path, monkeypatch, place):
    for name in ("a", "b"):
        put(tmp_path / f"audio/{name}.wav")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/t.tsv").write_text(HEAD + "a.wav\t0\t1\tdog\n")
    tables = {"train": "t.tsv"}
    listing = events.list_clips(tmp_path / "tables", tables=tables, sounds_dir=place)
    assert [Path(path).name for path, *_ in listing.left_out] == ["b.wav"]
    both = events.list_clips(tmp_path / "tables", tables=tables, sounds_dir=place, negatives=True)
    assert [clip.id for clip in both.splits["train"]] == ["a", "b"]
    monkeypatch.chdir(tmp_path / "tables")
    put(Path("a.wav"))
    assert not events.list_clips(".", tables=tables).left_out


def direct(own: list, num_classes: int) -> np.ndarray:
    """1 where the middle of a step lies in an event."""
    middles = GRID.first_s + GRID.step_s * np.arange(GRID.num)
    frames = np.zeros((GRID.num, num_classes))
    for onset, offset, label in own:
        frames[(middles >= onset - 1e-9) & (middles < offset - 1e-9), label] = 1
    return frames


def test_a_step_has_the_labels_of_what_covers_its_middle():
    own = [(0.12, 0.38, 0), (0.3, 0.95, 1)]
    example = {
        "index": 0,
        "labels": [0, 1],
        "fbank": np.zeros((90, 128), np.float16),
        "events": np.array(own),
    }
    shape = {"kind": "log_mel", "num_frames": 100, "num_classes": 3, "grid": GRID}
    batch = fit(example, **shape)
    np.testing.assert_array_equal(batch["frames"], direct(own, 3))
    # .9 s of sound: the tenth step's middle is past its end
    assert batch["frames_known"].tolist() == [1] * 9 + [0]
    short = fit({**example, "events": np.array([(0.31, 0.33, 2)])}, **shape)
    assert np.argwhere(short["frames"]).tolist() == [[3, 2]]
    vague = fit({key: value for key, value in example.items() if key != "events"}, **shape)
    assert not vague["frames_known"].any()
    assert not fit({"index": 1}, **shape)["frames_known"].any()


def test_a_mixture_has_both_ones_events_by_their_shares():
    one, two = [(0.0, 0.5, 0)], [(0.3, 0.8, 1)]
    clip = {"labels": [0], "fbank": np.zeros((100, 128), np.float16), "events": np.array(one)}
    partner = {"labels": [1], "fbank": np.zeros((100, 128), np.float16), "events": np.array(two)}
    mixed = {**clip, "index": 0, "partner": partner, "share": 0.7}
    shape = {"kind": "log_mel", "num_frames": 100, "num_classes": 2, "grid": GRID}
    wanted = 0.7 * direct(one, 2) + 0.3 * direct(two, 2)
    np.testing.assert_allclose(fit(mixed, **shape)["frames"], wanted, atol=1e-6)
    vague = {**mixed, "partner": {key: value for key, value in partner.items() if key != "events"}}
    assert not fit(vague, **shape)["frames_known"].any()


def flags(**changes) -> list[str]:
    own = {
        "model.width": 32,
        "model.depth": 1,
        "model.num_heads": 2,
        "model.patch_shape": (128, 4),
        "model.strides": (128, 4),
        "num_frames": 96,
        "epochs": 14,
        "batch_size": 8,
        "lr": 3e-3,
        "lr_warmup": "linear",
        "lr_warmup_steps": 10,
        "freq_mask": 0,
        "dataset.options": "{'tables': {'train': 'train.tsv', 'test': 'test.tsv'}}",
    } | changes
    return [
        f"--config={ROOT / 'configs/events.py'}:cpu,seconds=1",
        *(f"--config.{key}={value}" for key, value in own.items()),
    ]


def kept_and_made_again(run: Path, results: dict, capsys) -> None:
    """How well events are found stands in the results, and thresholds of steps in the card; `evaluate` tells
    them, and with --again puts them into a run that lacks them.
    """
    found, where, card = results["events"], run / "results.json", run / "model_card.json"
    assert (found["clips"], found["chosen_here"]) == (20, True)
    assert found["f1"]["events, half shared"]["all together"] > 0.8
    assert found["psds"]["PSDS 1"] > 0.5
    # of other clips, at the same thresholds
    assert not results["test"]["events"]["chosen_here"]
    assert results["test"]["events"]["thresholds"] == found["thresholds"]
    thresholds = json.loads(card.read_text())["frame_thresholds"]
    assert thresholds == list(found["thresholds"].values()) == load_model(run).frame_thresholds
    assert "<h3>Events</h3>" in (run / "report.html").read_text()
    invoke("evaluate", [str(run)])
    said = capsys.readouterr().out
    assert told(found) in said
    for path, key in ((where, "events"), (card, "frame_thresholds")):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    invoke("evaluate", [str(run)])
    assert "events: F1" not in capsys.readouterr().out
    invoke("evaluate", [str(run), "--again"])
    assert "events and thresholds of steps are kept in it" in capsys.readouterr().err
    again = json.loads(where.read_text())["events"]
    assert (again["f1"], again["epoch"]) == (found["f1"], found["epoch"])
    assert json.loads(card.read_text())["frame_thresholds"] == pytest.approx(thresholds, abs=1e-3)


def test_a_model_taught_by_events_finds_them(tmp_path, capsys):
    rng, rows = np.random.default_rng(0), {"train": HEAD, "test": HEAD}
    truth = []
    for number in range(60):
        split = "test" if number % 3 == 0 else "train"
        wave, name = 0.01 * rng.normal(size=16_000), f"{number}.wav"
        for label, pitch in (("low", 400), ("high", 3000)):
            if rng.random() < 0.6:
                onset, length = rng.uniform(0, 0.6), rng.uniform(0.2, 0.4)
                span = slice(round(16_000 * onset), round(16_000 * (onset + length)))
                wave[span] += 0.3 * np.sin(2 * np.pi * pitch * np.arange(span.stop - span.start) / 16_000)
                rows[split] += f"{name}\t{onset:.3f}\t{onset + length:.3f}\t{label}\n"
                truth += [Event(name, onset, onset + length, label)] if split == "test" else []
        rows[split] += "" if name in rows[split] else f"{name}\t\t\t\n"
        soundfile.write(tmp_path / name, wave, 16_000)
    for split, text in rows.items():
        (tmp_path / f"{split}.tsv").write_text(text)
    places = {"dataset.source_dir": tmp_path, "dataset.data_dir": tmp_path / "data"}
    run = tmp_path / "run"
    results = train(parse(flags(**places, **{"dataset.test": ("train",)}))[0], run)
    assert "events: F1" in capsys.readouterr().err
    kept_and_made_again(run, results, capsys)
    made = Tagger(run)
    found = [
        event._replace(file=path.name)
        for path in tmp_path.glob("*.wav")
        if int(path.stem) % 3 == 0
        for event in made.events(path, threshold=0.5)
    ]
    assert overlap_based(truth, found).micro.f1 > 0.8
    with pytest.raises(InputError, match=r"this model does not judge: set config.model.head=frames"):
        train(parse(flags(**places, **{"model.head": "clip"}))[0], tmp_path / "other")
    with pytest.raises(InputError, match=r"events do not follow: set both to 0"):
        train(parse(flags(**places, roll=10, mixup=0.5, mixup_of="features"))[0], tmp_path / "other")
    with pytest.raises(InputError, match=r"has no events, and loss frames_bce"):
        train(
            parse(flags(**places, **{"dataset.name": "synthetic", "dataset.options": "{}"}))[0],
            tmp_path / "x",
        )
