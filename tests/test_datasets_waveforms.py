"""The sounds behind prepared examples: the same from waveform shards as from files, whole or cut."""

import numpy as np
import pytest
from sound_trees import noise, write_wav

from ast_jax.datasets.prepare import prepare
from ast_jax.datasets.waveforms import waveforms


@pytest.mark.parametrize("kind", ["log_mel", "waveform"])
def test_a_piece_of_a_long_recording_is_found_again(tmp_path, kind):
    write_wav(tmp_path / "set" / "train" / "a" / "long.wav", 40_000)
    write_wav(tmp_path / "set" / "train" / "a" / "short@1.wav", 3200, seed=1)
    options = {"cut_s": 1}
    prepared = prepare(
        "folder",
        source_dir=tmp_path / "set",
        data_dir=tmp_path,
        kind=kind,
        options=options,
        workers=1,
        progress=False,
    )
    assert sorted(prepared.ids("train")) == ["long@0", "long@1", "long@2", "short@1"]
    found = waveforms(prepared, ["train"], ["long@1", "short@1"], str(tmp_path / "set"))
    np.testing.assert_array_equal(found["long@1"] * 32768, noise(40_000)[16_000:32_000])
    np.testing.assert_array_equal(found["short@1"] * 32768, noise(3200, seed=1))

    # without the files only the waveforms that shards hold can be heard
    without = waveforms(prepared, ["train"], ["long@1"], None)
    assert list(without) == (["long@1"] if kind == "waveform" else [])
    (tmp_path / "set" / "train" / "a" / "long.wav").write_bytes(b"gone")
    damaged = waveforms(prepared, ["train"], ["long@1"], str(tmp_path / "set"))
    assert list(damaged) == list(without)
