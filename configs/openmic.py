r"""OpenMIC-2018: 20,000 excerpts of 10 s, 20 instruments, a few judged of each (Humphrey et al. 2018).

  python -m ast_jax.main --config=configs/openmic.py --config.dataset.source_dir=openmic-2018

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms).

Loss and mAP are of what was judged. The test clips are heard after each epoch: there is no official part to
choose an epoch by, so the figure to compare is that of the last one. Of AST none is published; the fine-tuned
PaSST that its authors released has mAP .85 (github.com/kkoutini/PaSST/releases, v0.0.5).
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=FINE_TUNING)
    config = base()
    config.dataset.name = "openmic"
    fine_tuning(config, options, seconds=10)
    config.loss, config.metric = "bce", "mAP"
    return config
