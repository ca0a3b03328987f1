r"""TAU Urban Acoustic Scenes: ten scenes of European cities, 10 s a clip (Mesaros et al. 2018).

  python -m ast_jax.main --config=configs/tau_scenes.py \
      --config.dataset.source_dir=TAU-urban-acoustic-scenes-2019-development

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms). Key: seconds=10, the clips'
length (1 in 2022's set).

Of AST none is published.
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=FINE_TUNING, keys={"seconds": 10.0})
    config = base()
    config.dataset.name = "tau_scenes"
    config.dataset.train, config.dataset.eval = ("train",), ("evaluate",)
    fine_tuning(config, options, seconds=options["seconds"])
    return config
