"""Every layout is listed as its publisher means it, and every mistake in one is told in a sentence.

No sound is decoded here.
"""

import json
from pathlib import Path

import pytest
from sound_trees import class_tree, esc50_tree, write_rows

from ast_jax.datasets import audioset, esc50, folder, folds, speech_commands
from ast_jax.datasets.listing import Listing
from ast_jax.errors import InputError

ESC = [
    ("2-9-A-40.wav", 2, 40, "helicopter", True),
    ("1-7-A-0.wav", 1, 0, "dog", True),
    ("1-3-B-12.wav", 1, 12, "crackling_fire", False),
    ("5-1-A-0.wav", 5, 0, "dog", True),
]


def touch(root: Path, *names: str) -> Path:
    """Files with one byte: enough for a listing."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def told(listing: Listing) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """split -> [(id, label names)]."""
    return {
        split: [(clip.id, tuple(listing.label_names[k] for k in clip.labels)) for clip in clips]
        for split, clips in listing.splits.items()
    }


# ESC-50


def test_esc50_has_a_split_a_fold_and_labels_by_target(tmp_path):
    listing = esc50.list_clips(esc50_tree(tmp_path, ESC))
    assert listing.label_names == ("dog", "crackling_fire", "helicopter")
    assert told(listing) == {
        "fold1": [("1-3-B-12", ("crackling_fire",)), ("1-7-A-0", ("dog",))],
        "fold2": [("2-9-A-40", ("helicopter",))],
        "fold5": [("5-1-A-0", ("dog",))],
    }
    assert not listing.multi_label


def test_only_esc10_drops_the_other_classes(tmp_path):
    assert esc50.list_clips(esc50_tree(tmp_path, ESC), only_esc10=True).label_names == ("dog", "helicopter")


def test_esc50_without_its_table_says_which_directory_it_wants(tmp_path):
    with pytest.raises(InputError, match=r"no meta/esc50.csv in .*audio/ and meta/"):
        esc50.list_clips(tmp_path)
    write_rows(tmp_path / "meta" / "esc50.csv", [("filename", "fold"), ("a.wav", 1)])
    with pytest.raises(InputError, match="needs the column target, category, esc10"):
        esc50.list_clips(tmp_path)


def test_the_real_esc10_has_five_folds_of_eighty(shared):
    listing = esc50.list_clips(shared / "data" / "ESC-50-master")
    assert {split: len(clips) for split, clips in listing.splits.items()} == {
        f"fold{k}": 80 for k in range(1, 6)
    }
    assert listing.label_names[0] == "dog"
    assert listing.label_names[-1] == "chainsaw"


# Speech Commands


def speech_tree(root: Path) -> Path:
    touch(root, "bed/0_nohash_0.wav", "bed/1_nohash_0.wav", "cat/0_nohash_0.wav", "cat/2_nohash_1.wav")
    touch(root, "_background_noise_/pink_noise.wav", "README.md", "LICENSE")
    (root / "validation_list.txt").write_text("bed/1_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("cat/2_nohash_1.wav\ndog/9_nohash_0.wav\nbed/7_nohash_0.wav\n")
    return root


def test_speech_commands_follows_the_official_lists(tmp_path):
    listing = speech_commands.list_clips(speech_tree(tmp_path))
    assert told(listing) == {
        "train": [("bed/0_nohash_0", ("bed",)), ("cat/0_nohash_0", ("cat",))],
        "validation": [("bed/1_nohash_0", ("bed",))],
        # A listed file that is missing is there to be skipped with its reason; a word that is absent as a
        # whole is not.
        "test": [("cat/2_nohash_1", ("cat",)), ("bed/7_nohash_0", ("bed",))],
    }


def test_speech_commands_takes_a_checkpoints_label_order(tmp_path):
    source = speech_tree(tmp_path)
    (tmp_path / "order.txt").write_text("cat\nbackward\nbed\n")
    for order in (["cat", "backward", "bed"], tmp_path / "order.txt"):
        listing = speech_commands.list_clips(source, label_names=order)
        assert listing.label_names == ("cat", "backward", "bed")
        assert told(listing)["validation"] == [("bed/1_nohash_0", ("bed",))]
    with pytest.raises(InputError, match="word bed is not among the 1 label names"):
        speech_commands.list_clips(source, label_names=["cat"])


def test_speech_commands_needs_its_lists(tmp_path):
    (speech_tree(tmp_path) / "testing_list.txt").unlink()
    with pytest.raises(InputError, match=r"no testing_list.txt"):
        speech_commands.list_clips(tmp_path)
    with pytest.raises(InputError, match="no directory"):
        speech_commands.list_clips(tmp_path / "nowhere")


# AudioSet

HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def audioset_tree(root: Path) -> Path:
    (root / "csv").mkdir(parents=True)
    (root / "csv" / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n'
        '1,/m/05zppz,"Male speech, man speaking"\n2,/m/0bt9lr,"Dog"\n'
    )
    (root / "csv" / "balanced_train_segments.csv").write_text(
        HEADER
        + '--aaaaaaaaa, 30.000, 40.000, "/m/09x0r,/m/0bt9lr"\n-bbbbbbbbbb, 0.000, 10.000, "/m/0bt9lr"\n'
        'Ycccccccccc, 0.000, 9.500, "/m/05zppz,/m/09x0r"\n'
    )
    (root / "csv" / "eval_segments.csv").write_text(HEADER + 'ddddddddddd, 1.000, 11.000, "/m/0bt9lr"\n')
    touch(root, "audio/train/Y--aaaaaaaaa.wav", "audio/train/Ycccccccccc.flac", "audio/eval/ddddddddddd.m4a")
    return touch(root, "audio/eval/Yddddddddddd.wav", "audio/eval/Yunlabeled_x.wav", "audio/notes.txt")


def test_audioset_joins_its_tables_with_the_clips_that_are_there(tmp_path):
    listing = audioset.list_clips(audioset_tree(tmp_path))
    assert listing.multi_label
    assert listing.label_names == ("Speech", "Male speech, man speaking", "Dog")
    assert told(listing) == {
        "balanced": [
            ("--aaaaaaaaa", ("Speech", "Dog")),
            ("Ycccccccccc", ("Speech", "Male speech, man speaking")),
        ],
        "eval": [("ddddddddddd", ("Dog",))],
    }
    # The clip under the plain name wins over the one with Y before it, which then belongs to no row.
    assert listing.splits["eval"][0].path.endswith("/ddddddddddd.m4a")
    assert listing.notes == {
        "coverage": {
            "balanced": {"listed": 3, "found": 2, "share": 0.666667},
            "eval": {"listed": 1, "found": 1, "share": 1.0},
        },
        "unlabeled": 2,
        "mids": ["/m/09x0r", "/m/05zppz", "/m/0bt9lr"],
    }


def test_audioset_takes_only_the_splits_asked_for_and_clips_from_elsewhere(tmp_path):
    tree = audioset_tree(tmp_path / "set")
    (tree / "audio").rename(tmp_path / "clips")
    listing = audioset.list_clips(tree, clips_dir=tmp_path / "clips", splits=("eval",))
    assert list(listing.splits) == ["eval"]
    assert listing.notes["coverage"].keys() == {"eval"}
    assert listing.notes["unlabeled"] == 2  # those of the balanced table are no extras


def test_audioset_says_what_is_missing_or_wrong(tmp_path):
    tree = audioset_tree(tmp_path)
    with pytest.raises(InputError, match=r"no unbalanced_train_segments.csv below"):
        audioset.list_clips(tree, splits=("balanced", "unbalanced"))
    with pytest.raises(InputError, match="no split train"):
        audioset.list_clips(tree, splits=("train",))
    table = tree / "csv" / "eval_segments.csv"
    table.write_text(HEADER + 'ddddddddddd, 1.000, 11.000, "/m/0bt9lr,/m/none"\n')
    with pytest.raises(InputError, match=r"eval_segments.csv, line 4: /m/none is not in class_labels"):
        audioset.list_clips(tree)
    table.write_text("ddddddddddd, 1.000\n")
    with pytest.raises(
        InputError, match=r"line 1: 2 cells in 4 columns .YTID, start_seconds, end_seconds, positive_labels"
    ):
        audioset.list_clips(tree)
    (tree / "csv" / "class_labels_indices.csv").unlink()
    with pytest.raises(InputError, match=r"no class_labels_indices.csv below"):
        audioset.list_clips(tree)
    with pytest.raises(InputError, match="no segment table below"):
        audioset.list_clips(tree / "audio")


# Your own


def test_a_directory_per_class_is_split_by_hash_and_stratified(tmp_path):
    listing = folder.list_clips(class_tree(tmp_path, {"b": 10, "a": 2, "lone": 1}))
    assert listing.label_names == ("a", "b", "lone")
    sizes = {
        split: [sum(c.labels == (k,) for c in clips) for k in range(3)]
        for split, clips in listing.splits.items()
    }
    assert sizes == {"train": [1, 8, 1], "test": [1, 2, 0]}
    assert folder.list_clips(tmp_path) == listing


def test_the_hash_split_depends_on_names_alone():
    stems = [f"clip{i}" for i in range(50)]
    out = dict(zip(stems, folds.held_out(stems, ["x"] * 50), strict=True))
    again = dict(zip(stems[::-1], folds.held_out(stems[::-1], ["x"] * 50), strict=True))
    assert out == again
    assert sum(out.values()) == 10
    # The very choice: a change here would move clips between the splits of everyone's data.
    assert sorted(stem for stem, test in out.items() if test)[:3] == ["clip11", "clip20", "clip24"]


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "validation", "test"), ("fold1", "fold2")])
def test_directories_named_like_splits_are_splits(tmp_path, splits):
    for i, split in enumerate(splits):
        touch(tmp_path, f"{split}/dog/{i}.wav", f"{split}/cat/deep/er/x{i}.mp3")
    listing = folder.list_clips(tmp_path)
    assert sorted(listing.splits) == sorted(splits)
    assert told(listing)[splits[1]] == [("1", ("dog",)), ("x1", ("cat",))]


def test_labels_txt_gives_the_order(tmp_path):
    (class_tree(tmp_path, {"a": 2, "b": 2}) / "labels.txt").write_text("b\nunheard\na\n")
    assert folder.list_clips(tmp_path).label_names == ("b", "unheard", "a")
    assert folder.list_clips(tmp_path, label_names=["a", "b"]).label_names == ("a", "b")
    (tmp_path / "labels.txt").write_text("b\n")
    with pytest.raises(InputError, match="label a is not among the 1 label names"):
        folder.list_clips(tmp_path)


def test_the_same_clips_come_in_the_same_order_as_in_esc50(tmp_path):
    esc = esc50.list_clips(esc50_tree(tmp_path / "esc", ESC))
    touch(
        tmp_path / "own",
        *(f"{'test' if fold == 1 else 'train'}/{label}/{name}" for name, fold, _, label, _ in ESC),
    )
    (tmp_path / "own" / "labels.txt").write_text("\n".join(esc.label_names))
    own, by_fold = told(folder.list_clips(tmp_path / "own")), told(esc)
    assert own["test"] == by_fold["fold1"]
    assert own["train"] == by_fold["fold2"] + by_fold["fold5"]


def test_files_that_are_no_sounds_are_left_out_with_a_reason_and_hidden_ones_without(tmp_path):
    class_tree(tmp_path, {"a": 2})
    touch(tmp_path, "a/readme.txt", "a/noext", "a/.DS_Store", "a/._a-00.wav", ".git/x.wav")
    listing = folder.list_clips(tmp_path)
    assert sum(map(len, listing.splits.values())) == 2
    assert [(Path(path).name, detail) for path, _, detail in listing.left_out] == [
        ("noext", "no extension: not tried"),
        ("readme.txt", ".txt extension: not tried"),
    ]


def test_links_to_directories_are_followed_once(tmp_path):
    touch(tmp_path / "elsewhere", "1.wav", "2.wav")
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    assert sum(map(len, folder.list_clips(tmp_path / "set").splits.values())) == 2


def test_equal_stems_get_their_paths_as_ids(tmp_path):
    touch(tmp_path, "a/1.wav", "b/1.wav", "b/2.wav")
    assert sorted(c.id for clips in folder.list_clips(tmp_path).splits.values() for c in clips) == [
        "a/1",
        "b/1",
        "b/2",
    ]
    touch(tmp_path, "b/1.flac")
    ids = sorted(c.id for clips in folder.list_clips(tmp_path).splits.values() for c in clips)
    assert ids == ["a/1.wav", "b/1.flac", "b/1.wav", "b/2.wav"]


def test_a_csv_table_with_several_labels_and_splits(tmp_path):
    touch(tmp_path, "x/1.wav", "x/2.wav")
    rows = [
        ("file", "labels", "split", "note"),
        ("x/1.wav", "dog; cat", "fold1", ""),
        ("x/2.wav", "", "fold2", "silence"),
    ]
    listing = folder.list_clips(write_rows(tmp_path / "clips.csv", rows))
    assert listing.multi_label
    assert told(listing) == {"fold1": [("1", ("dog", "cat"))], "fold2": [("2", ())]}
    assert listing.splits["fold1"][0].path == str(tmp_path / "x" / "1.wav")


def test_a_csv_table_without_splits_is_single_label_if_every_clip_has_one(tmp_path):
    table = write_rows(
        tmp_path / "t.csv", [("file", "labels"), *((f"{i}.wav", "ab"[i % 2]) for i in range(10))]
    )
    listing = folder.list_clips(table)
    assert not listing.multi_label
    assert {split: len(clips) for split, clips in listing.splits.items()} == {"train": 8, "test": 2}
    assert folder.list_clips(table, multi_label=True).multi_label


def reference_json(path: Path, entries: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": [{"wav": wav, "labels": labels} for wav, labels in entries.items()]}))
    return path


def class_table(path: Path) -> Path:
    return write_rows(
        path, [("index", "mid", "display_name"), (0, "/m/b", "Bark"), (1, "/m/a", "Alarm, clock")]
    )


def test_the_references_json_lists_with_their_class_table(tmp_path):
    class_table(tmp_path / "class_labels_indices.csv")
    reference_json(tmp_path / "lists" / "train.json", {"/somewhere/1.wav": "/m/a,/m/b", "2.wav": "/m/b"})
    reference_json(tmp_path / "lists" / "eval.json", {"3.wav": "/m/a"})
    listing = folder.list_clips(tmp_path, tables={"train": "lists/train.json", "test": "lists/eval.json"})
    assert listing.label_names == ("Bark", "Alarm, clock")
    assert listing.multi_label
    assert told(listing) == {
        "train": [("1", ("Alarm, clock", "Bark")), ("2", ("Bark",))],
        "test": [("3", ("Alarm, clock",))],
    }
    assert listing.splits["test"][0].path == str(tmp_path / "lists" / "3.wav")
    with pytest.raises(InputError, match="label /m/none is not among the 2 label names"):
        folder.list_clips(reference_json(tmp_path / "bad.json", {"1.wav": "/m/none"}))


def test_one_json_list_and_a_class_table_of_another_name(tmp_path):
    table = reference_json(tmp_path / "data.json", {f"{i}.wav": "/m/a" for i in range(5)})
    with pytest.raises(InputError, match="need the class_labels_indices"):
        folder.list_clips(table)
    class_table(tmp_path / "classes.csv")
    listing = folder.list_clips(table, class_labels="classes.csv")
    assert {split: len(clips) for split, clips in listing.splits.items()} == {"train": 4, "test": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "path,label\n1.wav,a\n", "needs the column file: its columns are path, label"),
        ("t.csv", "file,labels\n", "t.csv has no rows"),
        ("t.csv", "file,labels\n,a\n", "line 2: no file"),
        (
            "t.csv",
            "file,labels,split\n1.wav,a,train\n2.wav,a,\n",
            "2.wav: no split, while other files have one",
        ),
        ("t.csv", "file,labels\n1.wav,a\n1.wav,b\n", "line 3: .*1.wav is listed twice, first in .*line 2"),
        ("t.csv", "file,labels,split\n1.wav,a,my-split\n", "split 'my-split'"),
        ("t.csv", b"file,labels\n1.wav,caf\xe9\n", "line 2: not UTF-8 text: save it as UTF-8"),
        ("t.csv", "file,labels\n1.wav,a\n".encode("utf-16"), "is UTF-16 or UTF-32 text: save it as UTF-8"),
        ("t.csv", "file,labels\n1.wav,a\0\n", "line 2: a zero byte"),
        ("t.csv", "", "has no rows: it is empty"),
        ("t.csv", "file,labels\n1.wav,a\n2.wav,b, c\n", "line 3: 3 cells in 2 columns .* stands in quotes"),
        ("t.csv", "file,labels\n1.wav\n", "line 2: 1 cells in 2 columns"),
        ("t.csv", 'file,labels\n1.wav,"a\n2.wav,b\n', "is a quote .* missing"),
        ("t.csv", 'file,labels\n1.wav,"a\n2.wav,"b"\n', "line 3: .*is a quote .* missing"),
        ("t.csv", 'file,labels\n1.wav,"a\n2.wav,b"\n', "line 3: a cell goes over several lines"),
        ("t.csv", "file,labels\n1.wav,a;;b\n", "line 2: an empty label in 'a;;b'"),
        ("t.csv", "file,labels\n1.wav,a;\n", "line 2: an empty label in 'a;'"),
        ("t.csv", "file,labels,labels\n1.wav,a,b\n", "has 'labels' for several columns"),
        (
            "t.json",
            '{"data": [{"wav": null, "labels": "/m/a"}]}',
            "got wav None and labels '/m/a' in entry 1",
        ),
        ("t.json", '{"data": [{"wav": "1.wav", "labels": 3}]}', "got wav '1.wav' and labels 3 in entry 1"),
        ("t.json", "[]", "wanted .*, got TypeError"),
        ("t.json", '{"data": [{"wav": "1.wav"}]}', "got KeyError"),
        ("t.json", '{"data"', "got JSONDecodeError"),
        ("t.json", '{"data": []}', "lists no files"),
        ("t.xlsx", "", "a table of sound files is a .csv, a .json or a .jsonl file"),
    ],
)
def test_a_wrong_table_is_told_in_a_sentence(tmp_path, name, content, message):
    class_table(tmp_path / "class_labels_indices.csv") if name.endswith("json") else None
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        folder.list_clips(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_directory_without_sounds_says_so_and_names_the_table_beside(tmp_path):
    with pytest.raises(InputError, match="no sound files in directories named after"):
        folder.list_clips(tmp_path)
    touch(tmp_path, "1.wav", "clips.csv")
    with pytest.raises(InputError, match=r"to use a table, give its path \(clips.csv is there\)"):
        folder.list_clips(tmp_path)
    with pytest.raises(InputError, match="no file or directory"):
        folder.list_clips(tmp_path / "nowhere")


# ---- Sounds without labels


def test_sounds_without_labels_are_a_split_of_which_nothing_is_known(tmp_path):
    own = class_tree(tmp_path / "own", {"a": 5, "b": 5})
    touch(tmp_path / "more", "x.wav", "deep/er/y.flac", "deep/x.wav", "notes.txt")
    # one that has a label by itself
    (tmp_path / "more" / "again.wav").symlink_to(own / "a" / "a-00.wav")
    plain, listing = folder.list_clips(own), folder.list_clips(own, unlabelled=tmp_path / "more")
    assert {split: listing.splits[split] for split in plain.splits} == plain.splits
    assert not listing.multi_label
    ids = [clip.id for clip in listing.splits["unlabelled"]]
    assert sorted(ids) == ["unlabelled/deep/er/y", "unlabelled/deep/x", "unlabelled/x"]
    assert listing.known == dict.fromkeys(ids, ())
    assert not any(clip.labels for clip in listing.splits["unlabelled"])
    assert "3 sounds of" in listing.notes["told"][0]
    assert "1 sounds of it left out, for they are clips with labels" in listing.notes["told"]
    assert ("labelled", "again.wav") in [(why, Path(path).name) for path, why, _ in listing.left_out]


def test_a_directory_that_adds_nothing_is_refused(tmp_path):
    own = class_tree(tmp_path / "own", {"a": 2})
    with pytest.raises(InputError, match=r"unlabelled: no directory .*nowhere"):
        folder.list_clips(own, unlabelled=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no sounds in .* beside those that have labels"):
        folder.list_clips(own, unlabelled=own / "a")
    rows = [("file", "labels", "split"), ("a/a-00.wav", "a", "unlabelled"), ("a/a-01.wav", "a", "train")]
    with pytest.raises(InputError, match="has a split unlabelled of its own"):
        folder.list_clips(write_rows(own / "t.csv", rows), unlabelled=touch(tmp_path / "more", "x.wav"))


# ---- Directories that may be splits or classes


def sounds_in(root, *places: str):
    for place in places:
        for number in range(3):
            path = root / place / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return root


def under(tops, classes=("cat", "dog")) -> list[str]:
    return [f"{top}/{name}" for top in tops for name in classes]


@pytest.mark.parametrize(
    ("tops", "splits"),
    [
        (("train", "test"), {"train", "test"}),
        (("train", "holdout"), {"train", "holdout"}),
        (("training", "hold-out"), {"training", "hold_out"}),
        (("1", "2", "3"), {"fold1", "fold2", "fold3"}),
        (("fold 1", "fold 2"), {"fold_1", "fold_2"}),
    ],
)
def test_splits_are_seen_beside_what_systems_leave(tmp_path, tops, splits):
    sounds_in(tmp_path, *under(tops))
    (tmp_path / "__MACOSX" / tops[0]).mkdir(parents=True)
    found = folder.list_clips(tmp_path)
    assert found.label_names == ("cat", "dog")
    assert found.splits.keys() == splits


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["data/cat", "data/dog"], "would be the only class: give"),
        (under(["data/train", "data/test"]), "whose directories are test, train"),
        ([*under(["train"]), "cat"], "train may be a split and cat is called like none"),
        (under(["north", "south"]), r"are these the classes, or north, south\?"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused_until_somebody_says_which(tmp_path, places, words):
    sounds_in(tmp_path, *places)
    with pytest.raises(InputError, match=words):
        folder.list_clips(tmp_path)
    assert folder.list_clips(tmp_path, layout="class").label_names == tuple(
        sorted({p.split("/")[0] for p in places})
    )


def test_numbers_with_sounds_in_them_are_classes(tmp_path):
    """Spoken digits."""
    assert folder.list_clips(sounds_in(tmp_path, "0", "1", "2")).label_names == ("0", "1", "2")
    with pytest.raises(InputError, match="layout 'folds': choose class or split/class"):
        folder.list_clips(tmp_path, layout="folds")


# Hugging Face's audiofolder


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_beside_the_sounds_says_what_is_heard(tmp_path, form):
    """In one directory a split; in the directory itself, by the directories in its paths; by a column."""
    heard = {"a.wav": "dog", "b.wav": "cat", "more/c.wav": "dog"}

    def write(table: Path, rows: list[dict]) -> None:
        if form == "jsonl":
            table.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
        else:
            write_rows(table, [list(rows[0]), *(list(row.values()) for row in rows)])

    for split in ("train", "test"):
        touch(tmp_path / "apart" / split, *heard)
        rows = [{"file_name": name, "label": label} for name, label in heard.items()]
        write(tmp_path / "apart" / split / "metadata.csv", rows)
    want = {
        split: [(f"{split}/a", ("dog",)), (f"{split}/b", ("cat",)), (f"{split}/more/c", ("dog",))]
        for split in ("test", "train")
    }
    assert told(folder.list_clips(tmp_path / "apart")) == want
    touch(tmp_path / "whole", *(f"{split}/{name}" for split in want for name in heard))
    rows = [
        {"file_name": f"{split}/{name}", "label": label} for split in want for name, label in heard.items()
    ]
    write(tmp_path / "whole/metadata.csv", rows)
    assert told(folder.list_clips(tmp_path / "whole")) == want
    write(tmp_path / "whole/metadata.csv", [row | {"split": "held"} for row in rows[1:]])
    listing = folder.list_clips(tmp_path / "whole")
    assert list(listing.splits) == ["held"]
    lost = str(tmp_path / "whole/test/a.wav")
    assert listing.notes["told"] == [f"1 sound without a row in the table beside the sounds: {lost}"]
    assert [(path, why) for path, why, _ in listing.left_out] == [(lost, "no row")]


def test_a_table_that_says_nothing_of_classes_leaves_them_to_directories(tmp_path):
    touch(tmp_path, "dog/a.wav", "cat/b.wav")
    write_rows(tmp_path / "metadata.csv", [["file_name", "recorder"], ["dog/a.wav", "x"], ["cat/b.wav", "y"]])
    assert folder.list_clips(tmp_path).label_names == ("cat", "dog")


def test_json_lines_may_list_several_labels_and_mistakes_are_told_by_line(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    table = tmp_path / "metadata.jsonl"
    table.write_text(
        '{"file_name": "a.wav", "labels": ["dog", "cat"]}\n\n{"file_name": "b.wav", "labels": null}'
    )
    splits = told(folder.list_clips(table))
    heard = {id: set(labels) for clips in splits.values() for id, labels in clips}
    assert heard == {"a": {"cat", "dog"}, "b": set()}
    for line, said in (
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: got .1., wanted an object"),
        ('{"file_name": "b.wav"}', "line 2 needs the column labels: its columns are file_name"),
    ):
        table.write_text('{"file_name": "a.wav", "labels": ["dog"]}\n' + line)
        with pytest.raises(InputError, match=said):
            folder.list_clips(tmp_path)
