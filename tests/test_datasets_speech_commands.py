"""Speech Commands prepared from the official directory layout, with generated words."""

from pathlib import Path

import numpy as np
import soundfile

from ast_jax.datasets.prepare import prepare
from ast_jax.features import log_mel

RATE = 16_000  # Hz
WORDS = {"bed": 300, "cat": 600, "seven": 1200}  # each a tone of its own, Hz
VALIDATION, TESTING = ["bed/b_nohash_0.wav", "cat/c_nohash_0.wav"], ["cat/a_nohash_1.wav"]


def word(pitch: float, number: int) -> np.ndarray:
    """One second or a bit less, as in the real set."""
    t = np.arange(RATE - 800 * number) / RATE
    return 0.3 * np.sin(2 * np.pi * pitch * (1 + number / 100) * t) * np.hanning(len(t))


def test_the_official_layout_becomes_shards(tmp_path: Path):
    source = tmp_path / "speech_commands_v0.02"
    for name, pitch in WORDS.items():
        for number, file in enumerate(("a_nohash_0", "a_nohash_1", "b_nohash_0", "c_nohash_0")):
            (source / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(source / name / f"{file}.wav", word(pitch, number), RATE, subtype="PCM_16")
    (source / "_background_noise_").mkdir()
    soundfile.write(source / "_background_noise_" / "pink_noise.wav", np.zeros(RATE), RATE)
    (source / "validation_list.txt").write_text("".join(f"{line}\n" for line in VALIDATION))
    (source / "testing_list.txt").write_text("".join(f"{line}\n" for line in TESTING))

    prepared = prepare("speech_commands", source_dir=source, data_dir=tmp_path / "data", progress=False)
    assert prepared.label_names == tuple(WORDS)
    assert not prepared.multi_label
    listed = {"validation": VALIDATION, "test": TESTING}
    for split, lines in listed.items():
        assert sorted(prepared.ids(split)) == sorted(line.removesuffix(".wav") for line in lines)
    assert prepared.num_examples("train") == 12 - 3
    assert not set(prepared.ids("train")) & {id for split in listed for id in prepared.ids(split)}
    train = prepared.source("train")
    for i, id in enumerate(prepared.ids("train")):
        example = train[i]
        assert [prepared.label_names[k] for k in example["labels"]] == [id.split("/")[0]]
        sound, _ = soundfile.read(source / f"{id}.wav", dtype="float32")
        np.testing.assert_array_equal(example["fbank"], log_mel(sound).astype(np.float16))
        assert len(example["fbank"]) == 1 + (len(sound) - 400) // 160
