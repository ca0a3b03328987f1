"""Who is held out: what belongs together stays on one side, classes are spread, one naming is one split."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from sound_trees import class_tree, write_rows, write_wav

from ast_jax.datasets import folder
from ast_jax.datasets.folds import folded, group_called, held_inside
from ast_jax.datasets.prepare import prepare
from ast_jax.errors import InputError
from ast_jax.recipes import recipe


@given(
    groups=st.lists(st.sampled_from("abcdefghij"), min_size=10, max_size=60),
    count=st.integers(2, 5),
    seed=st.integers(0, 99),
)
@tried(60)
def test_groups_stay_whole_and_every_fold_has_clips(groups, count, seed):
    rng = np.random.default_rng(seed)
    labels = [(str(label),) for label in rng.integers(0, 3, len(groups))]
    if len(set(groups)) < count:
        with pytest.raises(InputError, match=f"{count} folds of {len(set(groups))} groups"):
            folded(groups, labels, count)
        return
    folds = folded(groups, labels, count)
    assert {g: {f for f, own in zip(folds, groups, strict=True) if own == g} for g in groups} == {
        g: {folds[groups.index(g)]} for g in groups
    }
    assert set(folds) == set(range(1, count + 1))
    order = rng.permutation(len(groups))
    assert folded([groups[i] for i in order], [labels[i] for i in order], count) == [folds[i] for i in order]


def test_classes_are_spread_as_evenly_as_scikit_learn_spreads_them():
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(0)
    groups = [f"g{g}" for g in rng.integers(0, 25, 300)]
    target = rng.choice(3, 300, p=(0.6, 0.3, 0.1))
    uneven = lambda folds: np.std(
        [[np.mean(target[np.array(folds) == f] == c) for c in range(3)] for f in sorted(set(folds))], axis=0
    ).sum()
    theirs = np.zeros(300, int)
    splitter = StratifiedGroupKFold(5, shuffle=False)
    for number, (_, test) in enumerate(splitter.split(target, target, groups), 1):
        theirs[test] = number
    ours = folded(groups, [(str(label),) for label in target], 5)
    assert uneven(ours) <= 1.5 * uneven(theirs)
    assert np.ptp(np.bincount(ours)[1:]) <= 1.5 * np.ptp(np.bincount(theirs)[1:])


def test_clips_without_groups_are_folded_class_by_class():
    labels = [("a",)] * 20 + [("b",)] * 10
    folds = folded([str(i) for i in range(30)], labels, 5)
    assert [folds[:20].count(f) for f in range(1, 6)] == [4] * 5
    assert [folds[20:].count(f) for f in range(1, 6)] == [2] * 5


def test_a_pattern_says_whose_a_clip_is():
    assert group_called("yes/7_anna_3.wav", "_([a-z]+)_") == "anna"
    assert group_called("yes/7_anna_3.wav", "^[a-z]+") == "yes"
    with pytest.raises(InputError, match=r"yes/7\.wav: group '_x_' finds nothing"):
        group_called("yes/7.wav", "_x_")
    with pytest.raises(InputError, match="no regular expression"):
        group_called("a", "(")


def test_a_directory_and_a_table_are_held_out_by_group(tmp_path):
    tree = class_tree(tmp_path / "set", {"a": 10, "b": 10}, num_samples=400)
    # a-03.wav: the last digit is whose it is
    listing = folder.list_clips(tree, group=r"\d(\d)\.wav", folds=5)
    assert sorted(listing.splits) == [f"fold{k}" for k in range(1, 6)]
    whose = {split: {clip.id[-1] for clip in clips} for split, clips in listing.splits.items()}
    assert sum(map(len, whose.values())) == 10
    assert set(folder.list_clips(tree, group=r"\d(\d)\.wav").splits) == {"train", "test"}
    rows = [
        ["file", "labels", "group"],
        *[[f"set/a/a-{i:02}.wav", "ab"[i % 2], f"s{i // 2}"] for i in range(10)],
    ]
    table = write_rows(tmp_path / "t.csv", rows)
    held = {clip.id for clip in folder.list_clips(table).splits["test"]}
    assert len(held) == 2
    assert {int(id[-2:]) // 2 for id in held} == {int(min(held)[-2:]) // 2}
    for row in rows[1:]:
        row[2] = {"s0": "ann", "s1": "ann"}.get(row[2], "bob")
    splits = folder.list_clips(write_rows(tmp_path / "two.csv", rows)).splits
    assert {len(splits["train"]), len(splits["test"])} == {4, 6}
    rows[3][2] = ""
    with pytest.raises(InputError, match="no group, while other files have one"):
        folder.list_clips(write_rows(tmp_path / "t.csv", rows))
    split = class_tree(tmp_path / "split", {"train/a": 2, "test/a": 2}, num_samples=400)
    with pytest.raises(InputError, match=r"its splits are given \(test, train\)"):
        folder.list_clips(split, folds=3)


def test_few_groups_are_held_out_too_and_what_stands_on_both_sides_is_told(tmp_path):
    """Three speakers; a speaker in both splits that a table gives; names that look like pieces."""
    rows = [["file", "labels", "group"], *[[f"x/{i:02}.wav", "ab"[i % 2], f"s{i % 3}"] for i in range(12)]]
    listing = folder.list_clips(write_rows(tmp_path / "t.csv", rows))
    assert [len(listing.splits[name]) for name in ("train", "test")] == [8, 4]
    assert "told" not in listing.notes
    given = [[*rows[0], "split"], *[[*row, "test" if i < 3 else "train"] for i, row in enumerate(rows[1:])]]
    (said,) = folder.list_clips(write_rows(tmp_path / "t.csv", given)).notes["told"]
    assert said.startswith("3 groups have clips in several splits (s0, s1, s2): what is held out was heard")
    given[1:4] = [[row[0], row[1], f"new{row[2]}", "test"] for row in given[1:4]]
    assert "told" not in folder.list_clips(write_rows(tmp_path / "t.csv", given)).notes
    pieces = class_tree(tmp_path / "pieces", {"a": 12, "b": 12}, num_samples=400)
    for number, path in enumerate(sorted(pieces.rglob("*.wav"))):
        path.rename(path.with_name(f"rec{number // 4}_{number % 4}.wav"))
    (said,) = folder.list_clips(pieces).notes["told"]
    assert said.startswith("names such as rec")
    pattern = said.split("group='")[1].split("'")[0]
    assert "told" not in folder.list_clips(pieces, group=pattern).notes
    # counted through by class: nothing is said of recordings
    assert "told" not in folder.list_clips(class_tree(tmp_path / "plain", {"a": 9, "b": 9})).notes
    with pytest.raises(InputError, match=r"folds=3 says how many there are: name the one"):
        recipe("folder:folds=3")


def test_a_recipe_names_folds_and_groups():
    config = recipe("folder:fold=2,folds=3,group=_([a-z]+)_")
    assert (config.dataset.train, config.dataset.eval) == (("fold1", "fold3"), ("fold2",))
    assert dict(config.dataset.options) == {"folds": 3, "group": "_([a-z]+)_"}
    assert dict(recipe("folder").dataset.options) == {}


@pytest.mark.parametrize("by", ["column", "pattern", "nothing"])
def test_a_part_of_the_training_clips_is_held_out_with_what_belongs_to_it(tmp_path, by):
    """Eleven clips of six speakers; the test split is left alone."""
    names = [f"{n:02}_{who}.wav" for n, who in enumerate(["ann", "bob", "cid", "dan", "eve", "fay"] * 2)]
    for n, name in enumerate(names):
        split = "test" if n == 11 else "train"
        write_wav(tmp_path / "sounds" / split / "ab"[n % 4 // 2] / name, 1600 + 160 * n, seed=n)
    rows = [["file", "labels", "split", "group"]]
    for n, name in enumerate(names):
        path = f"{'test' if n == 11 else 'train'}/{'ab'[n % 4 // 2]}/{name}"
        rows.append([path, "ab"[n % 4 // 2], path.split("/")[0], name[3:6] if by == "column" else ""])
    source = write_rows(tmp_path / "sounds/t.csv", rows)
    if by == "pattern":
        # without splits in the table: a pattern makes them itself
        source = write_rows(tmp_path / "sounds/t.csv", [row[:2] for row in rows])
    options = {"group": r"_([a-z]+)\."} if by == "pattern" else {}
    whole = prepare("folder", source_dir=source, data_dir=tmp_path / "data", options=options, progress=False)
    parts = 2
    ours = held_inside(whole, ["train"], parts)
    assert set(whole.splits) == {"train", "test"}
    inside = {split: ours.ids(split) for split in ("inside_train", "inside_eval")}
    assert sorted([*inside["inside_train"], *inside["inside_eval"]]) == sorted(whole.ids("train"))
    if by != "nothing":
        owners = {split: {id[3:6] for id in ids} for split, ids in inside.items()}
        assert not owners["inside_train"] & owners["inside_eval"]
    else:
        assert abs(len(inside["inside_train"]) - len(inside["inside_eval"])) <= 1
    stored = {example["id"]: example for example in whole.source("train")}
    for split, ids in inside.items():
        source = ours.source(split)
        assert len(source) == len(ids) == ours.num_examples(split)
        for place, example in enumerate(pickle.loads(pickle.dumps(source))):
            assert example["id"] == ids[place]
            np.testing.assert_array_equal(example["fbank"], stored[ids[place]]["fbank"])
            np.testing.assert_array_equal(ours.label_sets(split)[place], stored[ids[place]]["labels"])
            assert ours.num_samples(split)[place] == 1600 + 160 * int(ids[place][:2])
        assert ours.class_counts(split).sum() == len(ids)
        assert ours.statistics(split) == whole.statistics("train")
    with pytest.raises(InputError, match=r"50 folds of \d+ groups"):
        held_inside(whole, ["train"], 50)
