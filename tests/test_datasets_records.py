"""Listings keep their order and refuse what cannot be right; a prepared set knows its clips without reading the shards."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sound_trees import write_wav

from ast_jax.datasets.extract import Extraction, from_int16, pieces, set_name, to_int16
from ast_jax.datasets.records import Clip, Listing, PreparedSet
from ast_jax.errors import InputError


def listing(*clips: Clip, **changes) -> Listing:
    return Listing(
        **{
            "name": "x",
            "label_names": ["a", "b"],
            "multi_label": False,
            "splits": {"train": list(clips)},
            **changes,
        }
    )


def test_clips_are_ordered_by_file_name_before_path():
    clips = [Clip("1", "/z/a.wav", (0,)), Clip("2", "/a/b.wav", (0,)), Clip("3", "/b/a.wav", (1,))]
    assert [clip.id for clip in listing(*clips).splits["train"]] == ["3", "1", "2"]
    assert listing(*clips[::-1]) == listing(*clips)


def test_a_split_without_clips_is_left_out():
    assert list(listing(splits={"train": [Clip("1", "/a.wav", (0,))], "test": []}).splits) == ["train"]


@pytest.mark.parametrize(
    ("clips", "changes", "message"),
    [
        ([], {}, "no clips found"),
        (
            [Clip("1", "/a.wav", (0,)), Clip("1", "/b.wav", (0,))],
            {},
            "two clips are called '1': /a.wav and /b.wav",
        ),
        ([Clip("1", "/a.wav", (2,))], {}, "labels \\(2,\\) of 2 classes"),
        ([Clip("1", "/a.wav", (0, 1))], {}, "2 labels, one wanted"),
        ([Clip("1", "/a.wav", ())], {}, "0 labels, one wanted"),
        ([Clip("1", "/a.wav", (0,))], {"label_names": ["a", "a"]}, "a label name occurs twice"),
        ([], {"splits": {"fold-1": [Clip("1", "/a.wav", (0,))]}}, "split 'fold-1'"),
        ([], {"splits": {"all": [Clip("1", "/a.wav", (0,))]}}, "split 'all'"),
    ],
)
def test_what_cannot_be_right_is_refused(clips, changes, message):
    with pytest.raises(InputError, match=message):
        listing(*clips, **changes)


def test_several_labels_or_none_are_right_in_a_multi_label_set():
    assert (
        len(listing(Clip("1", "/a.wav", (0, 1)), Clip("2", "/b.wav", ()), multi_label=True).splits["train"])
        == 2
    )


def test_the_fingerprint_changes_with_what_the_shards_depend_on(tmp_path):
    write_wav(tmp_path / "one.wav"), write_wav(tmp_path / "two.wav", 4000)
    clips = [Clip("one", str(tmp_path / "one.wav"), (0,)), Clip("two", str(tmp_path / "two.wav"), (1,))]
    names = [set_name(listing(*clips), tmp_path, Extraction())]
    names += [
        set_name(listing(*clips), tmp_path, how)
        for how in (Extraction("waveform"), Extraction(channels="first"), Extraction(cut_s=1.0))
    ]
    names.append(
        set_name(listing(clips[0], dataclasses.replace(clips[1], labels=(0,))), tmp_path, Extraction())
    )
    names.append(set_name(listing(clips[0]), tmp_path, Extraction()))
    names.append(set_name(listing(*clips, label_names=["a", "c"]), tmp_path, Extraction()))
    names.append(set_name(listing(splits={"test": clips}), tmp_path, Extraction()))
    write_wav(tmp_path / "two.wav", 4001)
    names.append(set_name(listing(*clips), tmp_path, Extraction()))
    assert len(set(names)) == len(names)


def test_the_fingerprint_survives_a_move_of_the_source(tmp_path):
    names = []
    for home in ("here", "there/deep"):
        path = write_wav(tmp_path / home / "one.wav")
        names.append(set_name(listing(Clip("one", str(path), (0,))), path.parent, Extraction()))
    assert names[0] == names[1]


def test_int16_round_trip_is_exact_and_clips_at_full_scale():
    every = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(to_int16(from_int16(every)), every)
    assert to_int16(np.float32([0.6, -0.6, 1.4, -1.4]) / 32768).tolist() == [1, -1, 1, -1]
    assert to_int16(np.float32([1.5, 1.0, -1.0, -7.0])).tolist() == [32767, 32767, -32768, -32768]


@pytest.mark.parametrize(
    ("num_samples", "lengths", "marks"),
    [
        (16_000, [16_000], [""]),  # not longer than a piece: whole, under its own id
        (40_000, [16_000, 16_000, 8_000], ["@0", "@1", "@2"]),  # half a piece is kept
        (39_999, [16_000, 16_000], ["@0", "@1"]),  # less is left out
    ],
)
def test_long_recordings_are_cut_into_pieces(num_samples, lengths, marks):
    cut = pieces(np.arange(num_samples, dtype=np.float32), 1.0)
    assert [len(part) for _, part in cut] == lengths
    assert [mark for mark, _ in cut] == marks
    assert [part[0] for _, part in cut] == [16_000 * i for i in range(len(lengths))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedSet:
    """Seven multi-label clips in two splits, over several shards."""
    from ast_jax.datasets import builders, shards

    root = tmp_path_factory.mktemp("records")
    labels = [(0,), (1, 2), (), (2,), (0, 1, 2), (1,), (2, 0)]
    clips = [
        Clip(f"ü{i}", str(write_wav(root / f"{i}.wav", 3200 + 160 * i, seed=i)), k)
        for i, k in enumerate(labels)
    ]
    whole = Listing("folder", ["a", "b", "c"], True, {"train": clips[:5], "test": clips[5:]})

    class Given(builders.ClipBuilder):
        """A listing from this test."""

        name = "folder"
        list_clips = staticmethod(lambda source_dir: whole)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CLIPS_PER_SHARD", 2)
        builder = Given(source_dir=root, data_dir=root / "data")
        builder.download_and_prepare(file_format="array_record")
    return PreparedSet(builder.data_dir)


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
