r"""VGGSound: 200,000 clips of 10 s from videos, 309 classes (Chen et al. 2020).

  python -m ast_jax.main --config=configs/vggsound.py --config.dataset.source_dir=vggsound

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms).

Of the AST paper none is published. Videos vanish: what is there is told, and stands in results.json.
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=FINE_TUNING)
    config = base()
    config.dataset.name = "vggsound"
    config.dataset.train, config.dataset.eval = ("train",), ("test",)
    fine_tuning(config, options, seconds=10)
    return config
