r"""Your own sounds: a directory per class, a CSV (file, labels, split) or the reference's JSON.

  python -m ast_jax.main --config=folder --config.dataset.source_dir=my_sounds --workdir=runs/mine
  python -m ast_jax crossval --config=folder:group=_([a-z]+)_ --config.dataset.source_dir=my_sounds \
      --workdir=runs/folds

It starts from weights that were trained on AudioSet where these can be had, CED-tiny's on a CPU, AST's on an
accelerator. Without a network, and with the word scratch, it starts from scratch, as small sets bear it: four
blocks of AST-tiny on patches of whole columns (128 mel bins by 40 ms). A warm-up, clipped gradients, every
clip mixed with another one, at least forty steps an epoch. From other weights say so:

  python -m ast_jax.main --config=folder:pretrained --config.init_from=ast_audioset_10_10_0.4593 \
      --config.dataset.source_dir=my_sounds --workdir=runs/mine

Words: multi (several labels a clip: sigmoid and BCE instead of softmax and CE); scratch; pretrained (AST-base
with 16 x 16 patches at stride 10, at a rate for fine-tuning; another size with --config.model.variant=small);
cpu (with pretrained: AST-tiny at stride 16 for CPU cores; else what a CPU starts from). Keys: seconds (the
model's length; longer clips are cut at their end, shorter ones padded), default 5; fold=K and folds=N (train
on the others of N folds, 5 by default, test on fold K); group=PATTERN (a regular expression of the files'
paths: what belongs together, a speaker or a site, stays on one side); unlabelled=DIR (a directory of sounds
without labels, however deep, from which a teacher teaches beside the labelled ones, see docs/recipes.md);
model=cnn6, cnn10, cnn14, psla_b0, psla, ced_tiny, ced_mini, ced_small, ced, passt, beats or eat, another
model, with its own optimiser and augmentation:

  python -m ast_jax.main --config=folder:model=cnn14 --config.init_from=cnn14_0.431 \
      --config.lr=1e-4 --config.dataset.source_dir=my_sounds --workdir=runs/mine
  python -m ast_jax.main --config=folder:model=ced_tiny --config.init_from=mispeech/ced-tiny \
      --config.dataset.source_dir=my_sounds --workdir=runs/tiny

Without split directories or a split column, a fifth of the clips of each class is held out, always the same
ones. Mean and standard deviation are measured on the training clips.
"""

from ast_jax.config import base, hold_out, suffix_options, tagger

# What a run starts from where it can be had and nobody says otherwise, by device: words, weights.
PRETRAINED = {
    "cpu": ("model=ced_tiny", "mispeech/ced-tiny"),
    "accelerator": ("pretrained", "ast_audioset_10_10_0.4593"),
}


def get_config(suffix: str = ""):
    keys = {"seconds": 5.0, "model": "ast", "fold": 0, "folds": 5, "group": "", "unlabelled": ""}
    options = suffix_options(suffix, words=("multi", "cpu", "pretrained", "scratch"), keys=keys)
    fold, folds = options["fold"], options["folds"]
    # what is not asked for is not said: sets prepared without it are found again
    asked = {"folds": folds if fold else 0, **{key: options[key] for key in ("group", "unlabelled")}}
    config = base(**{key: value for key, value in asked.items() if value})
    config.dataset.name = "folder"
    if fold:
        hold_out(config, fold, folds=folds)
    if options["unlabelled"]:
        config.dataset.train += ("unlabelled",)
    # whole patches at stride 16, at least the length
    config.num_frames = round(100 * options["seconds"] / 16 + 0.5) * 16
    config.freq_mask, config.time_mask = 24, config.num_frames // 5
    config.loss, config.metric = ("bce", "mAP") if options["multi"] else ("ce", "accuracy")
    config.epochs = 25
    if options["model"] != "ast" or options["pretrained"]:
        config.batch_size, config.least_steps, config.lr = 48, 40, 1e-4
        config.mixup, config.mixup_alpha = 1.0, 1.0
        config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    else:
        from_scratch(config)
    if options["pretrained"]:
        config.lr_warmup, config.lr_warmup_steps = "linear", 50
        config.layer_decay, config.clip_norm = 0.75, 1.0
        if options["cpu"]:
            config.model.variant, config.model.strides = "tiny", (16, 16)
    if options["cpu"] or options["model"] in ("ced_tiny", "ced_mini"):
        config.batch_size = 16
    tagger(config, options["model"], seconds=options["seconds"])
    return config


def from_scratch(config) -> None:
    """What docs/recipes.md has the evidence of."""
    config.model.variant, config.model.depth = "tiny", 4
    config.model.patch_shape = config.model.strides = (128, 4)
    # of a small set an epoch takes clips several times
    config.batch_size, config.least_steps = 16, 40
    config.lr, config.lr_warmup, config.lr_warmup_steps, config.clip_norm = 1e-3, "linear", 100, 1.0
    config.lr_decay, config.lr_decay_epochs = 0.8, tuple(range(8, 26))
    config.mixup, config.mixup_alpha, config.gain_db = 1.0, 1.0, 6.0
