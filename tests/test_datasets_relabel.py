"""AudioSet prepared from a small tree in its layout, and other labels without preparing again."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from sound_trees import write_rows, write_wav

from ast_jax.datasets.pipeline import balanced_weights
from ast_jax.datasets.prepare import prepare
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.datasets.relabel import relabelled
from ast_jax.errors import InputError

CLASSES = [
    ("index", "mid", "display_name"),
    (0, "/m/09x0r", "Speech"),
    (1, "/m/05zppz", "Male speech, man speaking"),
]
CLASSES += [(2, "/m/0bt9lr", "Dog")]
BALANCED = {
    "--aaaaaaaaa": "/m/09x0r,/m/0bt9lr",  # several labels
    "-bbbbbbbbbb": "/m/0bt9lr",
    "Ycccccccccc": "/m/05zppz,/m/09x0r",
    "gone_______": "/m/0bt9lr",  # its clip is missing
}


@pytest.fixture(scope="module")
def audioset(tmp_path_factory) -> PreparedSet:
    """Three of four balanced clips, one of evaluation, one that no table mentions."""
    root = tmp_path_factory.mktemp("audioset")
    write_rows(root / "csv" / "class_labels_indices.csv", CLASSES)
    for name, rows in (("balanced_train", BALANCED), ("eval", {"ddddddddddd": "/m/0bt9lr"})):
        lines = [f'{ytid}, 30.000, 40.000, "{mids}"\n' for ytid, mids in rows.items()]
        (root / "csv" / f"{name}_segments.csv").write_text(
            "# YTID, start_seconds, end_seconds, positive_labels\n" + "".join(lines)
        )
    for i, name in enumerate(["Y--aaaaaaaaa", "-bbbbbbbbbb", "Ycccccccccc", "Yddddddddddd", "Yunlabeled_x"]):
        write_wav(root / "clips" / f"{name}.wav", seed=i)
    return prepare("audioset", source_dir=root, data_dir=root / "data", progress=False)


def labels(prepared: PreparedSet, split: str = "balanced") -> dict[str, list[str]]:
    names = prepared.label_names
    sets = zip(prepared.ids(split), prepared.label_sets(split), strict=True)
    return {id: [names[k] for k in own] for id, own in sets}


def test_the_official_layout_becomes_shards(audioset):
    assert labels(audioset) == {
        "-bbbbbbbbbb": ["Dog"],
        "--aaaaaaaaa": ["Speech", "Dog"],
        "Ycccccccccc": ["Speech", "Male speech, man speaking"],
    }
    assert labels(audioset, "eval") == {"ddddddddddd": ["Dog"]}
    assert audioset.metadata["notes"]["coverage"]["balanced"] == {"listed": 4, "found": 3, "share": 0.75}
    assert audioset.metadata["notes"]["unlabeled"] == 1
    examples = [audioset.source("balanced")[i] for i in range(3)]
    assert [example["labels"].tolist() for example in examples] == [[2], [0, 2], [0, 1]]


def reference_json(path: Path, rows: dict[str, str]) -> Path:
    path.write_text(json.dumps({"data": [{"wav": wav, "labels": mids} for wav, mids in rows.items()]}))
    return path


def enhanced(tmp_path: Path, form: str) -> Path:
    """Dog added to one clip, one clip as it was, one that is not in the set; the third is in no table."""
    if form == "json":
        rows = {
            "/there/Ycccccccccc.flac": "/m/05zppz,/m/09x0r,/m/0bt9lr",
            "-bbbbbbbbbb_30.000.wav": "/m/0bt9lr",
        }
        return reference_json(tmp_path / "enhanced.json", rows | {"Ygone_______.wav": "/m/0bt9lr"})
    if form == "segments":
        text = (
            '# YTID, start, end, labels\nYcccccccccc, 0, 10, "/m/05zppz,/m/09x0r,/m/0bt9lr"\n'
            '-bbbbbbbbbb, 0, 10, "/m/0bt9lr"\n'
        )
        (tmp_path / "enhanced.csv").write_text(text + 'gone_______, 0, 10, "/m/0bt9lr"\n')
        return tmp_path / "enhanced.csv"
    rows = [
        ("id", "labels"),
        ("Ycccccccccc", "Male speech, man speaking; Speech; Dog"),
        ("-bbbbbbbbbb", "/m/0bt9lr"),
    ]
    return write_rows(tmp_path / "enhanced.csv", [*rows, ("gone_______", "Dog")])


@pytest.mark.parametrize("form", ["json", "segments", "names"])
def test_labels_are_replaced_by_id_and_counted(audioset, tmp_path, form):
    other, counts = relabelled(audioset, enhanced(tmp_path, form), ("balanced",))
    assert counts == {"changed": 1, "same": 1, "not_in_table": 1, "not_in_set": 1}
    assert labels(other) == labels(audioset) | {"Ycccccccccc": ["Speech", "Male speech, man speaking", "Dog"]}
    assert labels(other, "eval") == labels(audioset, "eval")
    source = pickle.loads(pickle.dumps(other.source("balanced")))  # as worker processes get it
    assert [source[i]["labels"].tolist() for i in range(3)] == [[2], [0, 2], [0, 1, 2]]
    np.testing.assert_array_equal(source[2]["fbank"], audioset.source("balanced")[2]["fbank"])
    assert other.class_counts("balanced").tolist() == [2, 1, 3]
    weights = balanced_weights(other.label_sets("balanced"), other.class_counts("balanced"))
    assert weights[2] == pytest.approx(1000 / 2.01 + 1000 / 1.01 + 1000 / 3.01)
    assert labels(audioset)["Ycccccccccc"] == [
        "Speech",
        "Male speech, man speaking",
    ]  # the set itself is as it was


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "id,labels\n-bbbbbbbbbb,Cow\n", "-bbbbbbbbbb: Cow is none of the 3 classes"),
        (
            "t.csv",
            "id,labels\nnobody,Dog\n",
            r"1 of 1 ids are no clips of audioset balanced, the first is 'nobody'; ids there look like '-bbb",
        ),
        ("t.csv", "file,label\na,b\n", r"2 cells in 4 columns .*; a table of labels is"),
        ("t.csv", "", "has no rows: it is empty; a table of labels is"),
        ("t.json", '{"data": [{"wav": 1}]}', "no table of labels"),
        ("t.json", '{"data": []}', "has no rows"),
        (
            "t.csv",
            "id,labels\n-bbbbbbbbbb,Dog\n-bbbbbbbbbb,Speech\n",
            "is there twice, with different labels",
        ),
        ("none.csv", None, "none.csv cannot be read: no such file"),
    ],
)
def test_a_wrong_table_of_labels_is_told_in_a_sentence(audioset, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        relabelled(audioset, tmp_path / name, ("balanced",))
    assert "\n" not in str(caught.value)


def test_where_clips_do_not_vanish_an_unknown_id_is_an_error(audioset, tmp_path, monkeypatch):
    monkeypatch.setitem(audioset.metadata, "notes", {})
    with pytest.raises(
        InputError, match="1 of 3 ids are no clips of audioset balanced, the first is 'gone_______'"
    ):
        relabelled(audioset, enhanced(tmp_path, "names"), ("balanced",))


def test_identifiers_may_come_from_a_class_table_beside(audioset, tmp_path, monkeypatch):
    """Sets that were prepared before identifiers were noted."""
    monkeypatch.delitem(audioset.metadata["notes"], "mids")
    with pytest.raises(InputError, match="/m/0bt9lr"):
        relabelled(audioset, enhanced(tmp_path, "segments"), ("balanced",))
    write_rows(tmp_path / "class_labels_indices.csv", CLASSES)
    assert relabelled(audioset, enhanced(tmp_path, "segments"), ("balanced",))[1]["changed"] == 1


def test_a_single_label_set_stays_one(audioset, tmp_path, monkeypatch):
    monkeypatch.setattr(audioset, "multi_label", False)
    with pytest.raises(InputError, match="--aaaaaaaaa: 2 labels, one wanted"):
        relabelled(
            audioset,
            write_rows(tmp_path / "t.csv", [("id", "labels"), ("--aaaaaaaaa", "Dog;Speech")]),
            ("balanced",),
        )
