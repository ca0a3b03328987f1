r"""GTZAN: music of ten genres, 30 s an excerpt, by the fault-filtered split (Kereliuk et al. 2015).

  python -m ast_jax.main --config=configs/gtzan.py --config.dataset.source_dir=gtzan

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms).

The three lists lie beside the genres' directories. The test excerpts are heard once, with the best epoch of
the validation excerpts; the model hears the first 10 s of each.
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=FINE_TUNING)
    config = base()
    config.dataset.name = "gtzan"
    config.dataset.train, config.dataset.eval, config.dataset.test = ("train",), ("valid",), ("test",)
    fine_tuning(config, options, seconds=10)
    return config
