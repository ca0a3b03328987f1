r"""NSynth: 305,979 notes of 4 s, by family of instruments or by pitch (Engel et al. 2017).

  python -m ast_jax.main --config=configs/nsynth.py --config.dataset.source_dir=nsynth

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms). Key: label=family (11)
or pitch (128).

The test notes are heard once, with the best epoch of the validation notes. Of AST none is published; a linear
probe of M2D has 75.7 % of families (Niizumi et al. 2024).
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=FINE_TUNING, keys={"label": "family"})
    config = base(label=options["label"])
    config.dataset.name = "nsynth"
    config.dataset.train, config.dataset.eval, config.dataset.test = ("train",), ("valid",), ("test",)
    fine_tuning(config, options, seconds=4)
    return config
