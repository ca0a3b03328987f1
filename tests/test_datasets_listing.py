"""Listings keep their order and refuse what cannot be right; fingerprints; what a record stores."""

import dataclasses

import numpy as np
import pytest
from sound_trees import write_wav

from ast_jax.datasets.extract import Extraction, from_int16, pieces, set_name, to_int16
from ast_jax.datasets.listing import Clip, Listing
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
        ([Clip("1", "/a.wav", (0,))], {"events": {}}, "a single-label set with events"),
        ([Clip("1", "/a.wav", (0,))], {"label_names": ["a", "a"]}, "a label name occurs twice"),
        (
            [Clip("1", "/a.wav", (0,))],
            {"known": {"1": (1,)}, "multi_label": True},
            "labels \\[0\\], of which nothing",
        ),
        ([Clip("1", "/a.wav", (0,))], {"known": {"1": (0, 2)}, "multi_label": True}, "of 2 classes"),
        ([Clip("1", "/a.wav", ())], {"known": {"2": ()}}, "0 labels, one wanted in a single-label set$"),
        (
            [Clip("1", "/a.wav", (0,))],
            {"known": {"1": (0,)}},
            "1 labels, one wanted .* none and nothing known",
        ),
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


def test_what_is_known_joins_the_fingerprint_only_where_it_is_said(tmp_path):
    clip, bare = Clip("one", str(write_wav(tmp_path / "one.wav")), (0,)), Clip("two", "/two.wav", ())
    name = lambda *clips, **changes: set_name(listing(*clips, **changes), tmp_path, Extraction())
    assert name(clip) == name(clip, known=None)
    several = {"multi_label": True}
    known = [{}, {"one": [0]}, {"one": [0, 1]}, {"one": [0], "two": ()}]
    names = [name(clip, bare, **several), *(name(clip, bare, **several, known=each) for each in known)]
    assert len(set(names)) == len(names)
    assert name(clip, bare, **several, known={"one": [1, 0, 1]}) == names[3]
    assert len(listing(clip, bare, known={"two": ()}).clips) == 2


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
@pytest.mark.parametrize("blocks", [[], [5_000, 16_000, 33_000], [39_000]])
def test_long_recordings_are_cut_into_pieces(num_samples, lengths, marks, blocks):
    cut = list(pieces(np.split(np.arange(num_samples, dtype=np.float32), blocks), 1.0))
    assert [len(part) for _, part in cut] == lengths
    assert [mark for mark, _ in cut] == marks
    assert [part[0] for _, part in cut] == [16_000 * i for i in range(len(lengths))]
