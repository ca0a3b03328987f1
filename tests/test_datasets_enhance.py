"""PSLA's enhanced labels: a direct statement of the rule, a toy ontology by hand, the command."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from sound_trees import write_rows

from ast_jax.commands import invoke
from ast_jax.datasets.enhance import enhanced, read_ontology
from ast_jax.errors import InputError
from ast_jax.evaluation.predictions import Predictions

MIDS = ["/m/animal", "/m/dog", "/m/bark", "/m/music", "/m/odd"]
ONTOLOGY = [
    {"id": "/m/animal", "child_ids": ["/m/dog"], "restrictions": []},
    {"id": "/m/dog", "child_ids": ["/m/bark", "/m/unknown"], "restrictions": ["blacklist"]},
    {"id": "/m/bark", "child_ids": [], "restrictions": []},
    {"id": "/m/music", "child_ids": ["/m/bark"], "restrictions": ["abstract"]},
    {"id": "/m/root", "child_ids": ["/m/animal", "/m/music"], "restrictions": ["abstract"]},
]


def by_hand(scores, targets, children, statistic):
    """Clip by clip, label by label."""
    share = {"median": 50, "p25": 25, "p10": 10, "p5": 5}.get(statistic)
    count = len(children)
    limits = []
    for c in range(count):
        own = [scores[n][c] for n in range(len(scores)) if targets[n][c]]
        limits.append((np.mean(own) if share is None else np.percentile(own, share)) if own else np.inf)
    found = [list(row) for row in targets]
    for n, row in enumerate(targets):
        for label in np.flatnonzero(row):
            parents, seen = [label], set()
            while parents:
                above = [p for p in range(count) for q in parents if children[p][q] and p not in seen]
                seen |= set(above)
                parents = above
            for c in set(np.flatnonzero(children[label])) | seen:
                if scores[n][c] > limits[c]:
                    found[n][c] = 1
    return np.array(found) > 0


@given(seed=st.integers(0, 10_000), statistic=st.sampled_from(["mean", "median", "p25", "p10", "p5"]))
@tried(30)
def test_the_rule_is_the_direct_statement(seed, statistic):
    rng = np.random.default_rng(seed)
    scores, targets = rng.random((12, 6)), (rng.random((12, 6)) < 0.3).astype(np.float32)
    children = np.triu(rng.random((6, 6)) < 0.3, 1)
    wanted = by_hand(scores, targets, children, statistic)
    np.testing.assert_array_equal(enhanced(scores, targets, children, statistic=statistic), wanted)


def test_a_toy_ontology(tmp_path):
    """A bark is heard where a dog is labelled, and an animal above it; music, which is abstract, has no bark
    below it; what no clip has is never added.
    """
    (tmp_path / "ontology.json").write_text(json.dumps(ONTOLOGY))
    children, strangers = read_ontology(tmp_path / "ontology.json", MIDS)
    assert strangers == ["/m/odd"]
    assert [(MIDS[a], MIDS[b]) for a, b in zip(*children.nonzero(), strict=True)] == [
        ("/m/animal", "/m/dog"),
        ("/m/dog", "/m/bark"),
    ]
    # animal, dog, bark, music, odd
    targets = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], np.float32)
    scores = np.array(
        [[0.8, 0.5, 0.7, 0.1, 0.9], [0.6, 0.4, 0.9, 0.1, 0.9], [0.7, 0.6, 0.6, 0.1, 0.9], [0.9] * 5]
    )
    wanted = [
        ["/m/animal", "/m/dog", "/m/bark"],
        # the dog has .4, its clips .5; the bark is no direct child
        ["/m/animal"],
        ["/m/animal", "/m/dog", "/m/bark"],
        ["/m/music"],
    ]
    found = enhanced(scores, targets, children)
    assert [[MIDS[i] for i in row.nonzero()[0]] for row in found] == wanted


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_the_command_writes_what_recipes_take(tmp_path, capsys, ending):
    from ast_jax.datasets.relabel import _read

    (tmp_path / "ontology.json").write_text(json.dumps(ONTOLOGY))
    rows = [("index", "mid", "display_name"), *((i, mid, mid[3:]) for i, mid in enumerate(MIDS))]
    write_rows(tmp_path / "classes.csv", rows)
    targets = np.eye(5, dtype=np.float32)[[1, 2]]
    scores = np.array([[0.1, 0.5, 0.7, 0, 0], [0.1, 0.6, 0.6, 0, 0]])
    Predictions(["a", "b"], scores, targets, 0.0).save(tmp_path / "scores.npz")
    flags = [f"--ontology={tmp_path / 'ontology.json'}", f"--classes={tmp_path / 'classes.csv'}"]
    out = tmp_path / f"enhanced.{ending}"
    invoke("enhance", [str(tmp_path / "scores.npz"), *flags, f"--out={out}"])
    assert "2 clips, 2 labels, 2 more on 2 clips" in capsys.readouterr().out
    assert _read(out) == {"a": ["/m/dog", "/m/bark"], "b": ["/m/dog", "/m/bark"]}


def test_what_is_no_ontology_is_told(tmp_path):
    (tmp_path / "x.json").write_text('{"id": 3}')
    with pytest.raises(InputError, match=r"x\.json is no ontology"):
        read_ontology(tmp_path / "x.json", MIDS)
