"""Sets in their published layouts: what each table says, and what is said where one is missing."""

import json
from pathlib import Path

import pytest
import soundfile
from sound_trees import RATE, noise, write_rows, write_wav

from ast_jax.datasets import (
    birdset,
    crema_d,
    fsd50k,
    gtzan,
    nsynth,
    openmic,
    tau_scenes,
    urbansound8k,
    vggsound,
)
from ast_jax.errors import InputError
from ast_jax.recipes import parse
from ast_jax.training.loop import train

ROOT = Path(__file__).resolve().parents[1]


def found(listing) -> dict[str, list[tuple[str, list[str]]]]:
    """{split: [(id, names of its labels)]}"""
    names = listing.label_names
    return {
        split: [(clip.id, [names[label] for label in clip.labels]) for clip in clips]
        for split, clips in listing.splits.items()
    }


def wavs(paths) -> None:
    """A quarter of a second each, no two alike."""
    for seed, path in enumerate(paths):
        write_wav(path, 4000, seed=seed)


def fsd50k_tree(root: Path) -> Path:
    truth = root / "FSD50K.ground_truth"
    write_rows(truth / "vocabulary.csv", [(0, "Bark", "/m/05tny_"), (1, "Meow", "/m/07qrkrw")])
    dev = [(11, "Bark", "/m/05tny_", "train"), (12, "Meow,Bark", "x", "train"), (13, "Meow", "x", "val")]
    write_rows(truth / "dev.csv", [("fname", "labels", "mids", "split"), *dev])
    write_rows(truth / "eval.csv", [("fname", "labels", "mids"), (21, "Meow", "/m/07qrkrw")])
    wavs(root / "FSD50K.dev_audio" / f"{name}.wav" for name in (11, 12, 13))
    wavs([root / "FSD50K.eval_audio" / "21.wav"])
    return root


def urbansound8k_tree(root: Path) -> Path:
    rows = [(f"{i}-{i % 2}-0-{i}.wav", 1 + i % 10, i % 2, ("siren", "drilling")[i % 2]) for i in range(20)]
    header = ("slice_file_name", "fold", "classID", "class")
    write_rows(root / "metadata" / "UrbanSound8K.csv", [header, *rows])
    wavs(root / "audio" / f"fold{fold}" / name for name, fold, *_ in rows)
    return root


def nsynth_tree(root: Path) -> Path:
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        notes = {
            f"{('flute', 'bass')[i % 2]}_{split}_{i:03}": {
                "instrument_family": (2, 0)[i % 2],
                "pitch": 60 + i,
            }
            for i in range(count)
        }
        folder = root / f"nsynth-{split}"
        wavs(folder / "audio" / f"{name}.wav" for name in notes)
        (folder / "examples.json").write_text(json.dumps(notes))
    return root


def gtzan_tree(root: Path) -> Path:
    lists = {"train": (0, 1), "valid": (2,), "test": (3,)}
    for split, numbers in lists.items():
        lines = [f"{genre}/{genre}.{i:05}.wav" for genre in ("blues", "rock") for i in numbers]
        (root / f"{split}_filtered.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}_filtered.txt").write_text("\n".join(lines) + "\n")
        wavs(root / "genres" / line for line in lines)
    return root


def vggsound_tree(root: Path) -> Path:
    rows = [
        ("a-B_c", 30, "people, laughing", "train"),
        ("--0d", 4, "dog barking", "train"),
        ("gone", 9, "owl", "test"),
        ("here", 120, "dog barking", "test"),
    ]
    write_rows(root / "vggsound.csv", rows)
    wavs(root / "clips" / f"{name}_{start:06}.wav" for name, start, *_ in rows if name != "gone")
    return root


def tau_tree(root: Path) -> Path:
    for name, numbers in (("train", (0, 1, 2, 3)), ("evaluate", (4, 5))):
        rows = [(f"audio/{('park', 'bus')[i % 2]}-rome-{i}.wav", ("park", "bus")[i % 2]) for i in numbers]
        path = root / "evaluation_setup" / f"fold1_{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join("\t".join(row) + "\n" for row in [("filename", "scene_label"), *rows]))
        wavs(root / row[0] for row in rows)
    return root


def crema_d_tree(root: Path) -> Path:
    """Seven actors, each with every emotion; and a sound of another name."""
    names = [
        f"{1001 + actor}_DFA_{emotion}_XX"
        for actor in range(7)
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    ]
    wavs(root / "AudioWAV" / f"{name}.wav" for name in [*names, "room_tone"])
    return root


def openmic_tree(root: Path) -> Path:
    """Of each excerpt two instruments are judged, of one that is listed none."""
    keys = {
        split: [f"{first}{i}00_3840" for i in range(6)] for split, first in (("train", "00"), ("test", "13"))
    }
    rows = [
        (key, instrument, relevance, 3)
        for split in keys.values()
        for i, key in enumerate(split)
        for instrument, relevance in (("voice", (0.5, 0.49)[i % 2]), (("banjo", "flute")[i % 2], 0.9))
    ]
    write_rows(root / openmic.LABELS, [("sample_key", "instrument", "relevance", "num_responses"), *rows])
    keys["test"].append("138485_1")
    for split, own in keys.items():
        write_rows(root / "partitions" / f"split01_{split}.csv", [(key,) for key in own])
        for seed, key in enumerate(own):
            path = root / "audio" / key[:3] / f"{key}.ogg"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise(4000, seed), RATE)
    return root


def test_openmic_tells_what_was_judged_from_what_was_not(tmp_path):
    listing = openmic.list_clips(openmic_tree(tmp_path))
    splits = found(listing)
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 6, "test": 6}
    assert splits["train"][:2] == [("00000_3840", ["banjo", "voice"]), ("00100_3840", ["flute"])]
    judged = [[listing.label_names[c] for c in listing.known[key]] for key in ("00000_3840", "00100_3840")]
    assert judged == [["banjo", "voice"], ["flute", "voice"]]
    assert listing.splits["test"][0].path == str(tmp_path / "audio" / "130" / "13000_3840.ogg")
    assert [(Path(path).stem, why) for path, why, _ in listing.left_out] == [("138485_1", "not judged")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("b", "voice", "0.4"), "line 3: voice of b was judged otherwise above"),
        (("a", "kazoo", "1"), "line 2: 'kazoo' is none of the 20 instruments"),
        (("a", "voice", "yes"), "line 2: relevance is 'yes': wanted a number from 0 to 1"),
        (("a", "voice", "nan"), "line 2: relevance is 'nan'"),
    ],
)
def test_a_row_that_is_none_of_openmics_is_told(tmp_path, row, said):
    tree = openmic_tree(tmp_path)
    rows = [("sample_key", "instrument", "relevance"), row, ("b", "voice", "0.6")]
    write_rows(tree / openmic.LABELS, rows)
    with pytest.raises(InputError, match=said):
        openmic.list_clips(tree)


def birdset_tree(root: Path) -> Path:
    """As archives unpack, into directories of their names; a recording and a segment are missing."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    birds = [birdset.BIRDS[i % 3] for i in range(13)]
    train = [{"filepath": f"HSN/XC{i}.ogg", "ebird_code_multilabel": [bird]} for i, bird in enumerate(birds)]
    heard = [["whcspa", "gcrfin"], [], None, ["norfli"], ["amepip"]]
    test = [
        {"filepath": f"HSN_001_20150708_061805_{5 * i:03}_{5 * i + 5:03}.ogg", "ebird_code_multilabel": own}
        for i, own in enumerate(heard)
    ]
    root.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test_5s", test)):
        pq.write_table(pa.Table.from_pylist(rows), root / f"HSN_metadata_{name}.parquet")
        folder = root / f"HSN_{name.replace('_', '')}_shard_0001"
        for seed, row in enumerate(rows[:-1]):
            path = folder / Path(row["filepath"]).name
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, noise(32_000, seed), 32_000)
    return root


def test_birdset_has_recordings_of_one_bird_and_segments_of_any_number(tmp_path):
    listing = birdset.list_clips(birdset_tree(tmp_path))
    assert (listing.multi_label, len(listing.label_names)) == (True, 21)
    splits = found(listing)
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 9, "valid": 3, "test_5s": 4}
    assert ("XC4", ["whcspa"]) in splits["train"] + splits["valid"]
    assert [names for _, names in splits["test_5s"]] == [["gcrfin", "whcspa"], [], [], ["norfli"]]
    assert listing.notes["coverage"]["test_5s"] == {"listed": 5, "found": 4, "share": 0.8}
    # one of each bird
    assert sorted(names[0] for _, names in splits["valid"]) == ["amepip", "gcrfin", "whcspa"]


def test_birdset_says_what_is_wrong_with_its_tables_or_archives(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    tree = birdset_tree(tmp_path)
    table = tree / "HSN_metadata_test_5s.parquet"
    for column, birds, said in (
        ("ebird_code_multilabel", ["ostric2"], "'ostric2' is none of HSN's 21 birds"),
        ("ebird_code_multilabel", [21], "21 is none of HSN's 21 birds"),
        ("ebird_code_multilabel", [20], "lists 1 sounds, a.ogg .*unpack the archives"),
        ("ebird_code", "norfli", "no column ebird_code_multilabel: its columns are filepath, ebird_code"),
    ):
        rows = [{"filepath": "a.ogg", column: birds}]
        pq.write_table(pa.Table.from_pylist(rows), table)
        with pytest.raises(InputError, match=said):
            birdset.list_clips(tree)
    table.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as BirdSet's"):
        birdset.list_clips(tree)


def test_crema_d_keeps_an_actor_on_one_side(tmp_path):
    listing = crema_d.list_clips(crema_d_tree(tmp_path))
    splits = found(listing)
    assert list(splits) == [f"fold{k}" for k in range(1, 6)]
    actors = [{name[:4] for name, _ in clips} for clips in splits.values()]
    assert sum(map(len, actors)) == len(set.union(*actors)) == 7
    assert ("1003_DFA_FEA_XX", ["fear"]) in [clip for clips in splits.values() for clip in clips]
    assert [(Path(path).name, why) for path, why, _ in listing.left_out] == [("room_tone.wav", "name")]


def test_fsd50k_has_several_labels_and_the_official_split(tmp_path):
    listing = fsd50k.list_clips(fsd50k_tree(tmp_path))
    assert listing.multi_label
    assert found(listing) == {
        "train": [("11", ["Bark"]), ("12", ["Bark", "Meow"])],
        "val": [("13", ["Meow"])],
        "eval": [("21", ["Meow"])],
    }
    assert listing.notes["mids"] == ["/m/05tny_", "/m/07qrkrw"]


def test_urbansound8k_has_its_ten_folds(tmp_path):
    splits = found(urbansound8k.list_clips(urbansound8k_tree(tmp_path)))
    assert list(splits) == [f"fold{k}" for k in range(1, 11)]
    assert splits["fold2"] == [("1-1-0-1", ["drilling"]), ("11-1-0-11", ["drilling"])]


def test_nsynth_is_by_family_or_by_pitch(tmp_path):
    tree = nsynth_tree(tmp_path)
    families = nsynth.list_clips(tree)
    assert len(families.label_names) == 11
    assert found(families)["test"] == [("bass_test_001", ["bass"]), ("flute_test_000", ["flute"])]
    assert found(nsynth.list_clips(tree, label="pitch"))["valid"][1] == ("flute_valid_000", ["pitch_60"])


def test_gtzan_is_what_the_filtered_lists_say(tmp_path):
    splits = found(gtzan.list_clips(gtzan_tree(tmp_path)))
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 4, "valid": 2, "test": 2}
    assert splits["test"] == [("blues.00003", ["blues"]), ("rock.00003", ["rock"])]


def test_vggsound_counts_what_is_gone(tmp_path):
    listing = vggsound.list_clips(vggsound_tree(tmp_path))
    assert listing.label_names == ("dog barking", "owl", "people, laughing")
    assert found(listing)["test"] == [("here_000120", ["dog barking"])]
    assert listing.notes["coverage"]["test"] == {"listed": 2, "found": 1, "share": 0.5}


def test_tau_scenes_has_the_published_fold(tmp_path):
    splits = found(tau_scenes.list_clips(tau_tree(tmp_path)))
    assert splits["evaluate"] == [("bus-rome-5", ["bus"]), ("park-rome-4", ["park"])]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (fsd50k, "no FSD50K.ground_truth/vocabulary.csv in .*: give the directory of FSD50K"),
        (urbansound8k, "no metadata/UrbanSound8K.csv in .*: give the directory"),
        (nsynth, "no nsynth-train, nsynth-valid or nsynth-test"),
        (gtzan, "no train_filtered.txt, valid_filtered.txt, test_filtered.txt below it"),
        (vggsound, "no vggsound.csv below"),
        (crema_d, "no sound below .* is called as CREMA-D's are"),
        (openmic, "no openmic-2018-aggregated-labels.csv in .*: give the directory openmic-2018"),
        (birdset, "no HSN_metadata_train.parquet below .*: give the directory HSN"),
        (tau_scenes, "no evaluation_setup/fold1_train.csv in"),
    ],
)
def test_what_is_missing_is_named(tmp_path, module, said):
    with pytest.raises(InputError, match=said):
        module.list_clips(tmp_path)


@pytest.mark.parametrize(
    ("spec", "tree", "module"),
    [
        ("nsynth.py:label=pitch", nsynth_tree, nsynth),
        ("gtzan.py", gtzan_tree, gtzan),
        ("tau_scenes.py:seconds=1", tau_tree, tau_scenes),
        ("crema_d.py:fold=2", crema_d_tree, crema_d),
        ("openmic.py", openmic_tree, openmic),
        ("birdset.py", birdset_tree, birdset),
    ],
)
def test_its_recipe_asks_for_splits_that_are_there(tmp_path, spec, tree, module):
    dataset = parse([f"--config={ROOT / 'configs' / spec}"])[0].dataset
    listing = module.list_clips(tree(tmp_path), **dataset.options)
    assert {*dataset.train, *dataset.eval, *dataset.test} == set(listing.splits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "tree"),
    [
        ("psla.py:fsd50k,scratch", fsd50k_tree),
        ("urbansound8k.py:cpu,fold=3", urbansound8k_tree),
        ("vggsound.py:cpu", vggsound_tree),
        ("crema_d.py:cpu,fold=2", crema_d_tree),
        ("openmic.py:cpu", openmic_tree),
        ("birdset.py:cpu", birdset_tree),
    ],
)
def test_its_recipe_runs_for_a_step(tmp_path, spec, tree):
    """The recipe as it is, its model and length as small as they get."""
    small = {"model.width": 16, "model.depth": 1, "model.num_heads": 2}
    if spec.startswith("psla"):  # which compiles for long: another model in its place
        small |= {"model.family": "ast", "model.options": "{}", "average_epochs": "()"}
    values = {
        "dataset.source_dir": tree(tmp_path / "set"),
        "dataset.data_dir": tmp_path / "data",
        "num_frames": 64,
        "time_mask": 8,
        "epochs": 1,
        "batch_size": 4,
        **small,
    }
    flags = [f"--config={ROOT / 'configs' / spec}", *(f"--config.{k}={v}" for k, v in values.items())]
    results = train(parse(flags)[0], tmp_path / "run")
    assert results["last"]["epoch"] == 1
