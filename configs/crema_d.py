r"""CREMA-D: 7,442 spoken sentences of 91 actors, 6 emotions (Cao et al. 2014), an actor on one side only.

  python -m ast_jax.main --config=configs/crema_d.py:fold=1 --config.dataset.source_dir=CREMA-D
  python -m ast_jax crossval --config=configs/crema_d.py --folds=1,2,3,4,5 --workdir=runs/crema_d

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms). Key: fold=1..5, the fold
held out.

Its authors publish no split; the five folds are this project's, and of AST no figure is published on them.
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, hold_out, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=FINE_TUNING, keys={"fold": 1})
    config = base()
    config.dataset.name = "crema_d"
    hold_out(config, options["fold"], folds=5)
    fine_tuning(config, options, seconds=4)
    return config
