r"""Your own sounds: a directory per class, a CSV (file, labels, split) or the reference's JSON.

  python -m ast_jax.main --config=configs/folder.py --config.dataset.source_dir=my_sounds --workdir=runs/mine

Words: multi (several labels a clip: sigmoid and BCE instead of softmax and CE), cpu (AST-tiny at stride 16,
for CPU cores). Keys: seconds (the model's length; longer clips are cut at their end, shorter ones padded),
default 5; model=cnn6, cnn10, cnn14, psla_b0 or psla, another model, with its own optimiser and augmentation:
  python -m ast_jax.main --config=configs/folder.py:model=cnn14 --config.init_from=cnn14_0.431 \
      --config.lr=1e-4 --config.dataset.source_dir=my_sounds --workdir=runs/mine

Without split directories or a split column, a fifth of the clips of each class is held out, always the same
ones. Mean and standard deviation are measured on the training clips.
"""

from ast_jax.config import base, suffix_options, tagger


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=("multi", "cpu"), keys={"seconds": 5.0, "model": "ast"})
    config = base()
    config.dataset.name = "folder"
    config.num_frames = (
        round(100 * options["seconds"] / 16 + 0.5) * 16
    )  # whole patches at stride 16, at least the length
    config.epochs, config.batch_size, config.lr = 25, 48, 1e-4
    config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    config.freq_mask, config.time_mask = 24, config.num_frames // 5
    config.loss, config.metric = ("bce", "mAP") if options["multi"] else ("ce", "accuracy")
    if options["cpu"]:
        config.model.variant, config.model.strides = "tiny", (16, 16)
        config.batch_size, config.lr = 16, 3e-4
        config.lr_decay_epochs = tuple(range(12, 26))
    tagger(config, options["model"], seconds=options["seconds"])
    return config
