"""The store against a direct search; growth, changed files, a crash; the commands on a few sounds."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from properties import tried

from ast_jax.commands import invoke
from ast_jax.commands.label import heard
from ast_jax.commands.models import AS_IT_IS
from ast_jax.errors import InputError
from ast_jax.events import read_events
from ast_jax.inference.store import FILES, VECTORS, Store
from ast_jax.models import AST, ASTConfig
from ast_jax.weights import LoadedModel

RATE, ABOUT = 16_000, {"model": "m", "kind": "mean", "width": 4}
CONFIG = ASTConfig(num_classes=2, num_frames=64, width=8, depth=2, num_heads=1, strides=(16, 12))


def filled(root, counts, seed=0):
    """A store of so many rows a file, the files, and {(file, window): row of unit length}."""
    store, rng, rows, files = Store.open(root / "index", ABOUT), np.random.default_rng(seed), {}, []
    for number, count in enumerate(counts):
        file = root / f"{number}.wav"
        file.write_bytes(bytes(number))
        vectors = rng.normal(size=(count, 4)).astype(np.float32)
        store.add(file, np.arange(count), np.arange(count) + 1, vectors)
        files.append(file)
        rows |= {(str(file), i): v / np.linalg.norm(v) for i, v in enumerate(vectors)}
    return store, files, rows


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 1000))
@tried(20)
def test_a_search_is_a_sort_by_cosine(tmp_path_factory, counts, seed):
    store, files, rows = filled(tmp_path_factory.mktemp("store"), counts, seed)
    query = np.random.default_rng(seed + 1).normal(size=4).astype(np.float32)
    every = np.stack(list(rows.values()))
    # a number that is always the same is left as it is
    spread = every.std(axis=0) if len(every) > 1 else 1
    standard = lambda x: (x - every.mean(axis=0)) / spread
    direction = lambda x: standard(x) / max(np.linalg.norm(standard(x)), 1e-12)
    wanted = direction(query / np.linalg.norm(query))
    cosine = {key: direction(row) @ wanted for key, row in rows.items()}
    best = sorted(cosine, key=lambda key: -cosine[key])[:3]
    found = store.search(query, 3)
    np.testing.assert_allclose([one.score for one in found], [cosine[key] for key in best], atol=1e-5)
    own = [cosine[one.file, int(one.start_s)] for one in found]
    np.testing.assert_allclose([one.score for one in found], own, atol=1e-5)
    assert {one.file for one in store.search(query, 99, once=True)} == set(map(str, files))
    assert str(files[0]) not in {one.file for one in store.search(query, 99, without=str(files[0]))}


def test_a_search_by_blocks_is_a_search_at_once(tmp_path, monkeypatch):
    store, query = filled(tmp_path, [3, 4, 1])[0], np.ones(4, np.float32)
    at_once = store.search(query, 99)
    monkeypatch.setattr("ast_jax.inference.store._BLOCK", 3)
    assert store.search(query, 99) == at_once


def test_a_file_that_changed_takes_the_place_of_what_it_was(tmp_path):
    store, files, _ = filled(tmp_path, [2, 1])
    assert store.has(files[1])
    files[1].write_bytes(b"longer")
    assert not store.has(files[1])
    store.add(files[1], [0, 1], [1, 2], np.eye(4, dtype=np.float32)[:2])
    again = Store.open(tmp_path / "index")
    assert (len(again), again.num_files) == (4, 2)
    assert again.has(files[1])
    found = again.search(np.eye(4, dtype=np.float32)[1], 99)
    assert len(found) == 4
    assert found[0].score == 1


def test_what_overlaps_a_part_of_the_query_alone_is_left_out(tmp_path):
    store, files, _ = filled(tmp_path, [5, 1])
    query = np.ones(4, np.float32)
    hidden = lambda part_s: (
        {(str(files[0]), float(i)) for i in range(5)}
        - {(one.file, one.start_s) for one in store.search(query, 99, without=str(files[0]), part_s=part_s)}
    )
    assert {start for _, start in hidden((1.5, 3.0))} == {1.0, 2.0}
    assert {start for _, start in hidden((2.0, 2.5))} == {2.0}
    assert len(hidden((-np.inf, np.inf))) == 5


def test_files_that_are_gone_or_have_changed_are_not_found(tmp_path):
    store, files, _ = filled(tmp_path, [2, 1, 1])
    assert store.stale == {}
    files[0].unlink()
    files[1].write_bytes(b"longer than before")
    again, query = Store.open(tmp_path / "index"), np.ones(4, np.float32)
    assert again.stale == {str(files[0]): "gone", str(files[1]): "changed"}
    assert not again.has(files[0])
    assert {one.file for one in again.search(query, 99)} == {str(files[2])}
    again.add(files[1], [0], [1], np.eye(4, dtype=np.float32)[:1])
    assert again.stale == {str(files[0]): "gone"}
    files[1].unlink()
    files[2].unlink()
    assert Store.open(tmp_path / "index").search(query, 99) == []


def test_what_a_crash_tore_off_is_cut_away_and_no_search_does_it(tmp_path):
    filled(tmp_path, [2, 1])
    index = tmp_path / "index"
    whole = [(index / name).read_bytes() for name in (VECTORS, FILES)]
    for name, torn in ((VECTORS, b"abc"), (FILES, b'{"file": "x", "st')):
        with (index / name).open("ab") as file:
            file.write(torn)
    assert len(Store.open(index)) == 3
    assert (index / VECTORS).read_bytes() != whole[0]
    with Store.growing(index, ABOUT) as store:
        assert len(store) == 3
    assert [(index / name).read_bytes() for name in (VECTORS, FILES)] == whole


def test_what_is_no_index_or_another_one_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no index"):
        Store.open(tmp_path / "nothing")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no index"):
        Store.open(tmp_path, ABOUT)
    Store.open(tmp_path / "index", ABOUT)
    with pytest.raises(InputError, match="has kind mean, asked for token"):
        Store.open(tmp_path / "index", ABOUT | {"kind": "token"})


def trained(seed=0, mean=-4.0):
    """A model, each seed another one."""
    model = AST(CONFIG, rngs=nnx.Rngs(seed))
    model.pos_embed[...] = jnp.zeros_like(model.pos_embed[...])
    return LoadedModel(model, ["a", "b"], model.front_end.with_statistics(mean, 4.0), "softmax")


@pytest.fixture
def model_named_m(monkeypatch):
    """Puts a model in the place of every checkpoint."""

    def put(loaded):
        monkeypatch.setattr("ast_jax.weights.load_model", lambda source, **options: loaded)

    put(trained())
    return put


def noises(root, count, seed=0):
    """So many files of a window each."""
    rng = np.random.default_rng(seed)
    root.mkdir(exist_ok=True)
    files = [root / f"{number}.wav" for number in range(count)]
    for file in files:
        soundfile.write(file, rng.normal(0, 0.05, round(0.65 * RATE)), RATE)
    return files


@pytest.mark.parametrize("other", [{"seed": 1}, {"mean": -5.0}], ids=["weights", "statistics"])
def test_another_model_of_the_same_name_is_refused(tmp_path, model_named_m, capsys, other):
    """By index, by search, by label; of an index that does not know its model it is said and gone on."""
    file, out = noises(tmp_path / "sounds", 1)[0], tmp_path / "index"
    invoke("index", [str(file), "--model=m", f"--out={out}"])
    heard([file], "m", AS_IT_IS, tmp_path / "labels.index")
    held = (out / VECTORS).read_bytes()
    model_named_m(trained(**other))
    again = noises(tmp_path / "sounds", 2)
    for ask in (
        lambda: invoke("index", [*map(str, again), "--model=m", f"--out={out}"]),
        lambda: invoke("search", [str(file), f"--index={out}"]),
        lambda: heard(again, "m", AS_IT_IS, tmp_path / "labels.index"),
    ):
        with pytest.raises(InputError, match=r"another model now .* make the index again"):
            ask()
    assert (out / VECTORS).read_bytes() == held
    about = json.loads((out / "about.json").read_text())
    (out / "about.json").write_text(json.dumps({key: about[key] for key in about if key != "digest"}))
    capsys.readouterr()
    invoke("search", [str(tmp_path / "sounds" / "1.wav"), f"--index={out}"])
    assert "does not say which weights it was made with" in capsys.readouterr().err


def test_two_spellings_of_a_file_are_one(tmp_path, model_named_m, monkeypatch, capsys):
    """In an index, and for a query that is in it; in one of an older version too."""
    noises(tmp_path / "sounds", 2)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for spelt in (["../sounds", "../here/../sounds/0.wav"], [str(tmp_path / "sounds")]):
        invoke("index", [*spelt, "--model=m", "--out=../index"])
        assert "2 windows of 2 files" in capsys.readouterr().out
    invoke("search", ["../sounds/0.wav", "--index=../index", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["file"] == str(tmp_path / "sounds" / "1.wav")
    listed = tmp_path / "index" / FILES
    listed.write_text(listed.read_text().replace("/sounds/", "/here/../sounds/"))
    for spelt in ("sounds/0.wav", "here/../sounds/0.wav"):
        assert Store.open(tmp_path / "index").has(tmp_path / spelt)


def test_files_of_one_name_get_tables_of_their_own(tmp_path, model_named_m):
    for place in ("a", "b"):
        noises(tmp_path / place, 1)
    invoke("index", [str(tmp_path / "a"), str(tmp_path / "b"), "--model=m", f"--out={tmp_path / 'index'}"])
    query, out = tmp_path / "query.wav", tmp_path / "tables"
    soundfile.write(query, np.random.default_rng(9).normal(0, 0.05, RATE), RATE)
    invoke("search", [str(query), f"--index={tmp_path / 'index'}", "--form=audacity", f"--out={out}"])
    assert sorted(path.name for path in out.iterdir()) == ["000000-0.wav.txt", "000001-0.wav.txt"]
    assert all(len(read_events(path, "0.wav")) == 1 for path in out.iterdir())


def test_a_name_that_is_no_utf_8_is_found_and_told(tmp_path, model_named_m, capsys):
    files = noises(tmp_path / "sounds", 2)
    odd = [file.rename(file.with_name(f"{file.stem}\udce9.wav")) for file in files]
    index, page = f"--index={tmp_path / 'index'}", tmp_path / "found.html"
    invoke("index", [*map(str, odd), "--model=m", f"--out={tmp_path / 'index'}"])
    for form in ("csv", "raven"):
        told = [f"--page={page}", f"--form={form}", f"--out={tmp_path / form}"]
        invoke("search", [str(odd[0]), index, *told])
        assert "1\\udce9.wav" in capsys.readouterr().out
    assert "1%E9.wav" in page.read_text(encoding="utf-8")
    assert "1\\udce9.wav" in page.read_text(encoding="utf-8")


def test_a_part_is_found_again_in_its_own_recording(tmp_path, model_named_m, capsys):
    rng, t = np.random.default_rng(0), np.arange(round(0.65 * RATE)) / RATE
    recording = rng.normal(0, 0.05, 6 * len(t))
    for window in (1, 4):
        recording[window * len(t) : (window + 1) * len(t)] = 0.3 * np.sin(2 * np.pi * 700 * t)
    file, index = tmp_path / "hour.wav", tmp_path / "index"
    soundfile.write(file, recording, RATE)
    gone = noises(tmp_path / "sounds", 2)
    where = [str(file), str(tmp_path / "sounds")]
    invoke("index", [*where, "--model=m", f"--out={index}", "--window_s=0.65"])
    gone[0].unlink()
    capsys.readouterr()
    query = [str(file), f"--index={index}", "--json", "--top=99"]
    invoke("search", [*query, "--from_s=0.65", "--to_s=1.3"])
    captured = capsys.readouterr()
    assert "of 3 files in" in captured.err
    assert "1 gone, 0 changed since: they are left out" in captured.err
    found = json.loads(captured.out)
    assert (found[0]["file"], found[0]["start_s"]) == (str(file), pytest.approx(4 * 0.65))
    starts = [one["start_s"] for one in found if one["file"] == str(file)]
    assert sorted(starts) == pytest.approx([0, 2 * 0.65, 3 * 0.65, 4 * 0.65, 5 * 0.65])
    invoke("search", query)
    assert [one["file"] for one in json.loads(capsys.readouterr().out)] == [str(gone[1])]
    invoke("search", [*query, "--from_s=0", "--to_s=3"])
    assert "of the part its first 0.65 s are heard" in capsys.readouterr().err
    invoke("index", [str(file), "--model=m", f"--out={index}", "--window_s=0.65"])
    assert "1 gone, 0 changed since: they will be left out of answers" in capsys.readouterr().err


def test_the_commands_find_the_same_sound_again(tmp_path, model_named_m, capsys):
    """A tone hidden in the second window of a noise file is the nearest to the tone, by file and by part."""
    rng, t = np.random.default_rng(0), np.arange(round(0.65 * RATE)) / RATE
    tone, sounds = 0.3 * np.sin(2 * np.pi * 700 * t), tmp_path / "sounds"
    sounds.mkdir()
    for number in range(3):
        noise = rng.normal(0, 0.05, 2 * len(t))
        if number == 1:
            noise[len(t) :] = tone
        soundfile.write(sounds / f"{number}.wav", noise, RATE)
    soundfile.write(tmp_path / "tone.wav", tone, RATE)
    index = f"--out={tmp_path / 'index'}"
    for said in ("6 windows of 3 files", "6 windows of 3 files"):
        invoke("index", [str(sounds), "--model=m", index, "--window_s=0.65"])
        assert said in capsys.readouterr().out
    soundfile.write(sounds / "new.wav", rng.normal(0, 0.05, len(t)), RATE)
    invoke("index", [str(sounds), "--model=m", index, "--window_s=0.65"])
    captured = capsys.readouterr()
    assert "7 windows of 4 files" in captured.out
    assert "3 of 4 files are in" in captured.err
    where = f"--index={tmp_path / 'index'}"
    page, table = tmp_path / "found.html", tmp_path / "tables"
    told = [f"--page={page}", "--form=raven", f"--out={table}"]
    for query in ([str(tmp_path / "tone.wav"), *told], [str(tmp_path / "tone.wav"), "--from_s=0.1"]):
        invoke("search", [*query, where, "--json", "--top=2"])
        best = json.loads(capsys.readouterr().out)[0]
        assert best["file"].endswith("1.wav")
        assert best["start_s"] == pytest.approx(0.65)
    with pytest.raises(InputError, match=r"lasts 0\.7 s, and --from_s is 9"):
        invoke("search", [str(tmp_path / "tone.wav"), "--from_s=9", where])
    assert len(re.findall("<audio", page.read_text())) == 3
    events = read_events(table / "1.wav.selections.txt")
    assert pytest.approx(0.65) in [event.onset_s for event in events]
