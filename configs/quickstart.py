r"""Built-in sounds, 10 classes: from nothing to a trained tagger in minutes on two CPU cores.

  make quickstart
  python -m ast_jax.main --config=configs/quickstart.py

Words: short (a few clips, two epochs: a smoke test that ends in under a minute).

The model is an AST of 3 blocks, 128 wide, whose patches are whole columns of 8 frames: 30 patches a clip.
"""

from ast_jax.config import base, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=("short",))
    config = base(**({"train_per_class": 48, "test_per_class": 8} if options["short"] else {}))
    config.dataset.name = "synthetic"
    config.num_frames = 240
    config.model.width, config.model.depth, config.model.num_heads = 128, 3, 4
    config.model.patch_shape, config.model.strides = (128, 8), (128, 8)
    config.loss, config.metric = "ce", "accuracy"
    config.epochs, config.batch_size, config.lr = 10, 16, 1e-3
    config.lr_warmup, config.lr_warmup_steps = "linear", 100
    config.lr_decay, config.lr_decay_epochs = 0.5, tuple(range(6, 11))
    config.freq_mask, config.time_mask = 24, 48
    if options["short"]:
        config.epochs, config.lr_warmup_steps = 2, 10
    return config
