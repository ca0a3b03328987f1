r"""UrbanSound8K: 8,732 street sounds of up to 4 s, 10 classes, 10 folds (Salamon, Jacoby and Bello 2014).

  python -m ast_jax.main --config=configs/urbansound8k.py:fold=1 --config.dataset.source_dir=UrbanSound8K
  python -m ast_jax crossval --config=configs/urbansound8k.py --folds=1,2,3,4,5,6,7,8,9,10 --workdir=runs/us8k

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms). Key: fold=1..10, the fold
held out.

Its authors ask for the mean over these ten folds. Of AST none is published; a linear probe of M2D has 87.6 %
(Niizumi et al. 2024).
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, hold_out, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=FINE_TUNING, keys={"fold": 1})
    config = base()
    config.dataset.name = "urbansound8k"
    hold_out(config, options["fold"], folds=10)
    fine_tuning(config, options, seconds=4)
    return config
