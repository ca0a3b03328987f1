r"""ESC-50: 2000 clips of 5 s, 50 classes, 5 folds; also any set in its layout, such as ESC-10.

  python -m ast_jax.main --config=configs/esc50.py:fold=1 --config.dataset.source_dir=ESC-50-master
  python -m ast_jax crossval --config=configs/esc50.py --workdir=runs/esc50        # all five folds

Words: cpu (AST-tiny at stride 16 from scratch, for two CPU cores). Keys: fold=1..5, the fold held out.

Published, AST-base: 88.7 +- 0.7 % from ImageNet, 95.6 +- 0.4 % from AudioSet (mean of the folds; table 3 of the paper).
The published code trains for 25 epochs, the paper says 20. One epoch is 34 steps; 2.5 h for all folds on four GTX TITAN.
"""

from ast_jax.config import base, suffix_options
from ast_jax.errors import InputError

FOLDS = (1, 2, 3, 4, 5)


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=("cpu",), keys={"fold": 1})
    if options["fold"] not in FOLDS:
        raise InputError(f"fold={options['fold']}: choose one of 1 to 5")
    config = base()
    config.dataset.name = "esc50"
    config.dataset.train = tuple(f"fold{fold}" for fold in FOLDS if fold != options["fold"])
    config.dataset.eval = (f"fold{options['fold']}",)
    config.dataset.mean, config.dataset.std = -6.6268077, 5.358466
    config.num_frames = 512
    config.loss, config.metric = "ce", "accuracy"
    config.epochs, config.batch_size, config.lr = 25, 48, 1e-4
    config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    config.freq_mask, config.time_mask = 24, 96
    if options["cpu"]:
        config.model.variant, config.model.strides = "tiny", (16, 16)
        config.batch_size, config.lr = 16, 3e-4
        config.epochs, config.lr_decay_epochs = 25, tuple(range(12, 26))
    return config
