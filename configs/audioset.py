r"""AudioSet: 527 classes, several labels a clip, 10 s; the full set (about 1.95 M clips), or `balanced` (about 20.8 k).

  python -m ast_jax.main --config=configs/audioset.py --config.dataset.source_dir=audioset
  python -m ast_jax.main --config=configs/audioset.py:balanced

Words: balanced.

Published: mAP 0.459 full and 0.347 balanced, weights averaged over epochs; 0.448 and 0.336 at the last epoch without
averaging (the reference's logs). On four TITAN X the full set took the reference about seven days.
"""

from ast_jax.config import base, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=("balanced",))
    config = base()
    config.dataset.name = "audioset"
    config.dataset.train, config.dataset.eval = ("balanced", "unbalanced"), ("eval",)
    config.dataset.mean, config.dataset.std = -4.2677393, 4.5689974
    config.num_frames = 1024
    config.loss, config.metric = "bce", "mAP"
    config.epochs, config.batch_size, config.lr = 5, 12, 1e-5
    config.lr_warmup_steps = 1000
    config.lr_decay, config.lr_decay_epochs = 0.5, (3, 4, 5)
    config.freq_mask, config.time_mask = 48, 192
    config.save_every = 5000
    if options["balanced"]:
        config.dataset.train = ("balanced",)
        config.epochs, config.lr, config.lr_decay_epochs = 25, 5e-5, (11, 16, 21)
        config.save_every = 0
    return config
