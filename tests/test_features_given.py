"""Features that exist already: read to the number, refused by a reason, cut as said; and a set of them from
the command line to the answer.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from sound_trees import write_rows, write_wav

from ast_jax.commands import invoke
from ast_jax.config import GIVEN, base, given
from ast_jax.datasets.prepare import prepare, summary
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.features import AudioError
from ast_jax.features.arrays import duration_s, load_features
from ast_jax.features.front_end import from_card
from ast_jax.features.given import Given
from ast_jax.inference.windows import Grid, cut, decoded
from ast_jax.main import main
from ast_jax.models import ASTConfig, abstract, host_variables
from ast_jax.models.base import build, config_from, family
from ast_jax.models.given import GivenConfig
from ast_jax.recipes import parse
from ast_jax.settings import Model, Run, Settings
from ast_jax.training.program import train_program
from ast_jax.weights import load_model
from ast_jax.weights.model_card import CARD, model_card
from ast_jax.weights.pretrained import initialise

ROOT = Path(__file__).resolve().parents[1]
BINS = 8
TABLE = np.linspace(-90, 10, 5 * BINS, dtype=np.float32).reshape(5, BINS)


def front_end(**fields) -> Given:
    return Given(num_mel_bins=BINS, **fields)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
@pytest.mark.parametrize("axes", ["tf", "ft"])
def test_arrays_are_read_as_they_are(tmp_path, axes, dtype):
    table = TABLE.astype(dtype)
    stored = table if axes == "tf" else table.T
    np.save(tmp_path / "c.npy", np.ascontiguousarray(stored))
    np.save(tmp_path / "f.npy", np.asfortranarray(stored))
    np.savez_compressed(tmp_path / "z.npz", anything=stored)
    for path in sorted(tmp_path.iterdir()):
        for source in (path, path.read_bytes()):
            found = load_features(source, front_end(axes=axes))
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, table.astype(np.float32))
            assert duration_s(source, front_end(axes=axes)) == pytest.approx(0.05)


class Unpickled:
    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def saved(path: Path, *arrays) -> bytes:
    np.savez(path, *arrays) if len(arrays) > 1 else np.save(path, arrays[0], allow_pickle=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("make", "reason", "said"),
    [
        (
            lambda at: saved(at, TABLE.T.copy()),
            "transposed",
            r"\[8, 5\]; wanted \[frames, 8\] \(axes=ft turns",
        ),
        (lambda at: saved(at, TABLE[:, :7].copy()), "wrong shape", r"\[5, 7\]; wanted \[frames, 8\]$"),
        (lambda at: saved(at, TABLE[None]), "wrong shape", r"\[1, 5, 8\]"),
        (lambda at: saved(at, TABLE.ravel()), "wrong shape", r"\[40\]"),
        (lambda at: saved(at, TABLE[:0]), "no frames", r"\[0, 8\]"),
        (lambda at: saved(at, np.where(TABLE[3, 2] == TABLE, np.nan, TABLE)), "not finite", "in frame 3"),
        (lambda at: saved(at, TABLE.astype(int)), "not floats", "int64"),
        (lambda at: saved(at, TABLE + 1j), "not floats", "complex"),
        (lambda at: saved(at, np.array([[Unpickled()] * BINS], object)), "objects", "never unpickled"),
        (lambda at: saved(at, TABLE * 1e4), "out of range", "numbers up to 9e.05"),
        (lambda at: saved(at, TABLE * 1e-8), "out of range", "numbers up to 9e-07"),
        (lambda at: saved(at, TABLE)[:-1], "truncated", "159 bytes"),
        (lambda at: saved(at, TABLE)[:50], "not an array", "EOF"),
        (lambda at: b"", "not an array", "EOF"),
        (lambda at: write_wav(at.with_suffix(".wav"), 800).read_bytes(), "not an array", "magic string"),
        (lambda at: saved(at.with_suffix(".npz"), TABLE, TABLE), "several arrays", "arr_0.npy, arr_1.npy"),
        (lambda at: b"PK\x03\x04" + bytes(90), "not an array", "zip"),
        (lambda at: saved(at, np.broadcast_to(TABLE[:1], (1_500_000, BINS))), "too long", "4.2 h"),
    ],
)
def test_what_is_no_features_is_refused_by_a_reason_in_one_line(tmp_path, make, reason, said):
    data = make(tmp_path / "x.npy")
    with pytest.raises(AudioError, match=said) as raised:
        load_features(data, front_end())
    assert raised.value.reason == reason
    assert "\n" not in str(raised.value)
    with pytest.raises(AudioError, match="unreadable: no file"):
        load_features(tmp_path, front_end())


def test_a_front_end_says_what_its_features_are_and_comes_back_from_a_card():
    db = front_end(axes="ft", log="db", sample_rate_hz=22_050, frame_length=512, frame_shift=512)
    assert (db.padding, db.silence, db.in_powers) == (-100.0, -100.0, True)
    assert db.nats * db.pad == pytest.approx(np.log(1e-10))
    assert db.seconds(100) == pytest.approx(51_200 / 22_050)
    assert [front_end(log=log).padding for log in ("none", "ln", "log10")] == [0.0, -23.0259, -10.0]
    assert front_end(log="db", pad=-80.0).silence == -80.0
    assert not front_end().in_powers
    assert from_card(json.loads(json.dumps(db.card()))) == db
    assert len({front_end(**x).identity for x in ({}, {"axes": "ft"}, {"log": "ln"}, {"pad": 1.0})}) == 4
    wrong = {"axes": "mel", "log": "dB", "pad": np.nan, "num_mel_bins": 0, "frame_length": 400}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=r"wanted|choose"):
            Given(**{name: value})
    with pytest.raises(InputError, match=r"takes features that exist already .* got \[1, 16000\]"):
        front_end().features(np.zeros((1, 16_000), np.float32))


@pytest.mark.parametrize("frames", [1, 9, 10, 11, 14, 15, 20, 37])
@pytest.mark.parametrize("hop_s", [None, 0.1, 0.033])
def test_windows_are_slices_of_whole_frames(tmp_path, frames, hop_s):
    table = np.random.default_rng(0).normal(0, 1, (frames, BINS)).astype(np.float32)
    np.save(tmp_path / "x.npy", table)
    grid = Grid.of(front_end(), 10, hop_s=hop_s)
    hop = {None: 5, 0.1: 10, 0.033: 3}[hop_s]
    starts = list(range(0, max(1, frames - 9), hop))
    # and a last one, for a frame or more that is new
    if frames > starts[-1] + 10:
        starts.append(starts[-1] + hop)
    found = list(cut(decoded(str(tmp_path / "x.npy"), grid), grid))
    assert [round(window.start_s * 100) for window in found] == starts
    assert [round(window.end_s * 100) for window in found] == [min(s + 10, frames) for s in starts]
    for window, start in zip(found, starts, strict=True):
        np.testing.assert_array_equal(window.fbank, table[start : start + 10])
    assert grid.count(frames / 100) == len(found)


def test_what_only_log_powers_bear_is_refused_where_there_are_none():
    def settings(log: str, **run) -> Settings:
        options = {"num_mel_bins": 16, "log": log}
        model = Model(family="ast_given", options=options, width=8, depth=1, num_heads=1)
        return Settings(model=model, run=Run(num_frames=16, batch_size=2, **run))

    for log, refused in (("none", True), ("db", False)):
        asked = settings(log, mixup=1.0)
        if refused:
            with pytest.raises(InputError, match=r"config.mixup of stored features: the model hears given"):
                train_program(asked, 2)
        outline = abstract("ast_given", config_from(asked, 2))
        assert outline.front_end == Given(num_mel_bins=16, log=log)
    wrong = Settings(model=Model(family="ast_given", options={"bins": 16}))
    with pytest.raises(InputError, match=r"options bins: the family ast_given has only num_mel_bins"):
        config_from(wrong, 2)
    with pytest.raises(InputError, match=r"config.model.options log: the family ast has none"):
        config_from(Settings(model=Model(options={"log": "db"})), 2)


def test_an_asts_checkpoint_starts_a_model_of_features_of_other_bins(tmp_path):
    shape = {"num_classes": 2, "num_frames": 32, "width": 8, "depth": 1, "num_heads": 1, "strides": (16, 16)}
    ast = build("ast", ASTConfig(num_mel_bins=32, **shape))
    np.savez(tmp_path / "ast.npz", **host_variables(ast) | {CARD: card_of(ast)})
    model = build("ast_given", GivenConfig(num_mel_bins=48, log="db", **shape), seed=1)
    assert "from" in initialise(model, tmp_path / "ast.npz")
    ours, theirs = host_variables(model), host_variables(ast)
    for path in ("blocks/0/attention/qkv/kernel", "patch_embed/kernel"):
        np.testing.assert_array_equal(ours[path], theirs[path])
    assert (ours["pos_embed"].shape, theirs["pos_embed"].shape) == ((1, 8, 8), (1, 6, 8))
    with pytest.raises(InputError, match=r"is of the family ast, the model of eat"):
        initialise(build("eat", family("eat").Config(**shape)), tmp_path / "ast.npz")


def card_of(model) -> np.ndarray:
    front = model.front_end.with_statistics(-4.0, 4.0)
    card = model_card(model, label_names=["a", "b"], front_end=front, activation="softmax", channels="mean")
    return np.array(json.dumps(card))


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("mel=64", "mel=64: features that exist already need mel= .bins., rate= .Hz. and hop="),
        ("log=db", "log=db: features that exist already need mel="),
        ("mel=64,rate=16000,hop=160,pad=low", "pad=low in the suffix: wanted a number"),
        ("mel=64,rate=16000,hop=160,model=cnn6", "model=cnn6 hears sound"),
    ],
)
def test_a_recipe_that_says_half_is_told_what_is_missing(suffix, said):
    with pytest.raises(InputError, match=said):
        parse([f"--config=folder:{suffix}"])


def test_a_recipe_without_them_is_as_before():
    config = base()
    assert given(config, GIVEN) == 100.0
    assert config == base()


# ---- A set of them


def documented() -> str:
    """The recipe of the command in docs/recipes.md."""
    (words,) = re.findall(r"--config=folder:(mel=\S+)", (ROOT / "docs" / "recipes.md").read_text())
    return words


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    """As librosa would give them, two classes in another half of the bins, and files that are none."""
    root, rng = tmp_path_factory.mktemp("given") / "my_features", np.random.default_rng(0)
    for number, name in enumerate(("high", "low")):
        (root / name).mkdir(parents=True)
        for clip in range(10):
            table = rng.normal(-60, 5, (128, 30 + clip)).astype(np.float32)
            table[64 * number : 64 * number + 64] += 40
            np.save(root / name / f"{name}{clip}.npy", table)
    np.save(root / "low" / "turned.npy", table.T)
    np.save(root / "low" / "counts.npy", table.astype(int))
    (root / "low" / "notes.txt").write_text("mine")
    return root


@pytest.fixture(scope="module")
def run(features) -> Path:
    """The documented command, with a smaller model and one epoch."""
    small = {"epochs": 1, "least_steps": 0, "model.width": 8, "model.depth": 1, "model.num_heads": 1}
    small |= {"dataset.max_skipped": 0.2, "dataset.source_dir": features, "num_frames": 48}
    small |= {"dataset.data_dir": features.with_name("data"), "batch_size": 4}
    flags = [f"--config.{key}={value}" for key, value in small.items()]
    main([f"--config=folder:{documented()}", *flags, f"--workdir={features.with_name('run')}"])
    return features.with_name("run")


def test_a_set_of_features_is_prepared_trained_and_evaluated(run, features, capsys):
    (directory,) = features.with_name("data").glob("folder/log_mel-*/1.0.0")
    with (directory / "skipped.csv").open() as file:
        rows = [(Path(row["path"]).name, row["reason"]) for row in csv.DictReader(file)]
    assert rows == [("counts.npy", "not floats"), ("turned.npy", "transposed"), ("notes.txt", "other file")]
    (line,) = [line for line in summary(PreparedSet(directory)) if "as the files hold them" in line]
    assert line.endswith("num_mel_bins=128 axes=ft log=db pad=-100.0")
    card, results = (json.loads((run / f"{name}.json").read_text()) for name in ("model_card", "results"))
    assert card["front_end"]["kind"] == "given"
    held = {path.stem: np.load(path) for path in features.glob("*/*[0-9].npy")}
    told = [path.read_text() for path in (directory / "metadata.json",)]
    train = json.loads(told[0])["splits"]["train"]["fbank"]
    ids = np.load(directory / "clips.npz")["train/ids"].astype(str)
    cells = np.concatenate([held[id].astype(np.float16).astype(np.float64).ravel() for id in ids])
    assert (train["count"], train["sum"]) == (cells.size, pytest.approx(cells.sum(), rel=1e-12))
    assert (card["mean"], card["std"]) == (pytest.approx(cells.mean()), pytest.approx(cells.std()))
    capsys.readouterr()
    invoke("evaluate", [str(run), "--again"])
    assert f"accuracy {results['last']['accuracy']:.4f}" in capsys.readouterr().out


def test_predict_and_embed_read_such_files(run, features, tmp_path, capsys):
    file = features / "high" / "high7.npy"
    invoke("predict", [f"--model={run}", str(file), "--json", f"--plot={tmp_path / 'p.png'}"])
    told = json.loads(capsys.readouterr().out)
    loaded, table = load_model(run), np.load(file).T
    scores = np.asarray(loaded.scores(table[None]))[0]
    assert {tag["label"]: tag["score"] for tag in told["tags"]} == {
        name: pytest.approx(score, abs=1e-4)
        for name, score in zip(loaded.label_names, scores.tolist(), strict=True)
    }
    assert told["duration_s"] == pytest.approx(37 * 512 / 22_050, abs=1e-3)
    assert (tmp_path / "p.png").stat().st_size > 1000
    invoke("convert", [str(run), str(tmp_path / "flax"), "--to=flax"])
    card = (tmp_path / "flax" / "README.md").read_text()
    assert "predict --model=THIS_DIRECTORY features.npy" in card
    assert re.search(
        r"## Input\n\nFeatures that exist already\n\(`kind=given .* axes=ft log=db pad=-100.0`\),", card
    )
    # the longer model of the same weights hears as the card says
    assert load_model(run, num_frames=96).front_end == loaded.front_end
    with pytest.raises(SystemExit):
        invoke("embed", [f"--model={run}", str(features), f"--out={tmp_path / 'e.npz'}"])
    out, err = capsys.readouterr()
    assert "20 rows of 8" in out
    assert "2 of 22 files could not be embedded" in err
    with pytest.raises(SystemExit):
        invoke("predict", [f"--model={run}", str(write_wav(tmp_path / "a.wav", 800))])
    assert "not an array" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "what"),
    [
        ("serve", ["--port=0"], "serve"),
        ("predict", ["--stdin"], "--stdin"),
        ("convert", ["--to=stablehlo", "--input=waveform"], "convert --input=waveform"),
    ],
)
def test_what_needs_sound_says_so(run, tmp_path, command, arguments, what):
    model = [str(run), str(tmp_path / "out")] if command == "convert" else [f"--model={run}"]
    with pytest.raises(
        InputError, match=f"{what} needs a model that hears sound, and this one takes features"
    ):
        invoke(command, [*model, *arguments])
    assert not (tmp_path / "out").exists()


def test_a_table_lists_them_and_what_is_of_sound_is_refused(features, tmp_path):
    rows = [
        (f"{name}/{name}{clip}.npy", name, "train" if clip else "test")
        for name in ("high", "low")
        for clip in range(3)
    ]
    table = write_rows(features / "clips.csv", [("file", "labels", "split"), *rows])
    own = Given(22_050, 512, 512, 128, axes="ft", log="db")
    common = {"source_dir": table, "data_dir": tmp_path, "front_end": own, "progress": False}
    prepared = prepare("folder", **common)
    assert {split: prepared.num_examples(split) for split in prepared.splits} == {"train": 4, "test": 2}
    assert prepared.num_samples("test").tolist() == [30 * 512, 30 * 512]
    for wrong in ({"kind": "waveform"}, {"channels": "first"}, {"options": {"cut_s": 1.0}}):
        with pytest.raises(InputError, match="the model takes features that exist already, which are stored"):
            prepare("folder", **common, **wrong)
    with pytest.raises(InputError, match=r"no sound files .* \(.npy, .npz\) say how they were made"):
        prepare("folder", **(common | {"front_end": from_card(None), "source_dir": features}))
