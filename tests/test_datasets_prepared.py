"""A prepared set knows its clips without reading the shards, and reads them in order."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sound_trees import write_wav

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.prepare import prepare
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.datasets.registry import DATASETS
from ast_jax.errors import InputError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedSet:
    """Seven multi-label clips in two splits, over several shards."""
    from ast_jax.datasets import builder, shards

    root = tmp_path_factory.mktemp("records")
    labels = [(0,), (1, 2), (), (2,), (0, 1, 2), (1,), (2, 0)]
    clips = [
        Clip(f"ü{i}", str(write_wav(root / f"{i}.wav", 3200 + 160 * i, seed=i)), k)
        for i, k in enumerate(labels)
    ]
    whole = Listing("folder", ["a", "b", "c"], True, {"train": clips[:5], "test": clips[5:]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CLIPS_PER_SHARD", 2)
        patch.setitem(DATASETS, "given", lambda source_dir: whole)
        given = builder.SetBuilder("given", source_dir=root, data_dir=root / "data")
        given.download_and_prepare(file_format="array_record")
    return PreparedSet(given.data_dir)


def test_several_splits_read_as_one_sequence(prepared):
    source = prepared.source(["test", "train"])
    assert len(source) == 7 == prepared.num_examples(["test", "train"])
    assert (
        [example["id"] for example in source]
        == ["ü5", "ü6", "ü0", "ü1", "ü2", "ü3", "ü4"]
        == prepared.ids(["test", "train"])
    )
    assert source[6]["id"] == "ü4"
    assert prepared.source("test")[0]["id"] == "ü5"
    for index in (-1, 7):
        with pytest.raises(IndexError):
            source[index]


def test_examples_are_numpy_with_their_own_lengths(prepared):
    for example, num_samples in zip(prepared.source("train"), prepared.num_samples("train"), strict=True):
        assert example.keys() == {"id", "fbank", "labels"}
        assert example["fbank"].dtype == np.float16
        assert example["fbank"].shape == (1 + (num_samples - 400) // 160, 128)
        assert example["labels"].dtype == np.int64


def test_label_sets_and_counts_need_no_shards(prepared):
    splits = ["test", "train"]
    sets = prepared.label_sets(splits)
    assert [labels.tolist() for labels in sets] == [[1], [2, 0], [0], [1, 2], [], [2], [0, 1, 2]]
    for labels, example in zip(sets, prepared.source(splits), strict=True):
        assert np.array_equal(labels, example["labels"])
    assert prepared.class_counts(splits).tolist() == [3, 3, 4]
    assert (
        prepared.class_counts("test").tolist()
        == [1, 1, 1]
        == prepared.metadata["splits"]["test"]["class_counts"]
    )


@pytest.fixture(scope="module")
def partly(tmp_path_factory) -> PreparedSet:
    """Nine classes, more than a byte: clips known in part, as a whole and not at all; the last is cut."""
    root = tmp_path_factory.mktemp("partly")
    paths = [str(write_wav(root / f"{i}.wav", 3300 if i == 3 else 1600, seed=i)) for i in range(5)]
    labels = [(8,), (0, 3), (), (1,), (2,)]
    clips = [Clip(str(i), path, own) for i, (path, own) in enumerate(zip(paths, labels, strict=True))]
    known = {"0": (8, 0), "2": (), "3": [1, 7]}
    whole = Listing("folder", "abcdefghi", True, {"train": clips[:4], "test": clips[4:]}, known=known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "given", lambda source_dir: whole)
        return prepare("given", source_dir=root, data_dir=root / "d", options={"cut_s": 0.1}, progress=False)


def test_what_is_known_of_each_example_is_kept(partly):
    rows = [{8, 0}, set(range(9)), set(), {1, 7}, {1, 7}]  # 3 in two pieces, the rest is too short for one
    assert partly.ids("train") == ["0", "1", "2", "3@0", "3@0.1"]
    assert [set(np.flatnonzero(row)) for row in partly.known("train")] == rows
    assert partly.known("test") is None
    assert partly.known(["test", "train"]).shape == (6, 9)
    assert partly.known_counts(["test", "train"]).tolist() == [3, 4, 2, 2, 2, 2, 2, 4, 3]
    assert partly.known_counts("test").tolist() == [1] * 9
    source = pickle.loads(pickle.dumps(partly.source(["test", "train"])))
    assert [set(np.flatnonzero(example["known"])) for example in source] == [set(range(9)), *rows]
    assert "known" not in partly.source("test")[0]


def test_new_labels_make_a_clip_known_where_they_are_said_of_it(partly):
    other = partly.with_labels({"train": [(8,), (0, 3), (4,), (1,), (1,)]}, {"train": [2]})
    assert other.known("train").sum(axis=1).tolist() == [2, 9, 9, 2, 2]
    assert partly.known("train").sum(axis=1).tolist() == [2, 9, 0, 2, 2]


@pytest.mark.parametrize("splits", [["train"], ["test", "train"]])
def test_statistics_are_those_of_the_stored_values(prepared, splits):
    cells = np.concatenate(
        [example["fbank"].astype(np.float64).ravel() for example in prepared.source(splits)]
    )
    # Given to nine decimals; the order of 1e5 float64 sums matters far below that.
    assert prepared.statistics(splits) == pytest.approx((cells.mean(), cells.std()), abs=1e-9)


def test_a_source_can_be_pickled_and_read_by_threads(prepared):
    source = pickle.loads(pickle.dumps(prepared.source(["train", "test"])))
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda i: source[i]["id"], list(range(7)) * 20))
    assert ids == prepared.ids(["train", "test"]) * 20


def test_an_unknown_split_is_named_beside_the_ones_there_are(prepared):
    with pytest.raises(InputError, match="no split 'fold1'; it has train, test"):
        prepared.source(["train", "fold1"])


def test_a_shard_that_lost_its_end_is_noticed(prepared, tmp_path):
    import shutil

    copy = shutil.copytree(prepared.directory, tmp_path / "copy")
    shard = next(copy.glob("*array_record*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="is damaged"):
        PreparedSet(copy)


def test_a_directory_that_was_never_finished_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no finished data set"):
        PreparedSet(tmp_path)


def test_shards_hold_features_as_they_are(prepared):
    """Not packed: unpacking would be most of the time that reading takes."""
    shards = b"".join(path.read_bytes() for path in sorted(prepared.directory.glob("*array_record*")))
    for example in prepared.source(["train", "test"]):
        assert example["fbank"].tobytes()[:256] in shards
