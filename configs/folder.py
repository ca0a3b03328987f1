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

Features that exist already, .npy or .npz files of floats in the place of sounds, and how they were made (here
as librosa's power_to_db(melspectrogram(...)) gives them):

  python -m ast_jax.main --config=folder:mel=128,rate=22050,hop=512,axes=ft,log=db \
      --config.dataset.source_dir=my_features --workdir=runs/features

mel (bins), rate (Hz) and hop (samples) have to be said. axes=tf is [frames, bins], ft [bins, frames]. log=ln,
log10 or db (10 log10) of powers; with none, the default, nothing is done that only log powers bear: clips
made louder, masks over bands, clips mixed as sounds would be. pad= fills short clips up, by default with the
logarithm of 1e-10, or with 0 where there is none.

Without split directories or a split column, a fifth of the clips of each class is held out, always the same
ones. Mean and standard deviation are measured on the training clips.
"""

from ast_jax.config import GIVEN, base, given, hold_out, suffix_options, tagger
from ast_jax.errors import InputError

# What a run starts from where it can be had and nobody says otherwise, by device: words, weights.
PRETRAINED = {
    "cpu": ("model=ced_tiny", "mispeech/ced-tiny"),
    "accelerator": ("pretrained", "ast_audioset_10_10_0.4593"),
}


def get_config(suffix: str = ""):
    keys = {"seconds": 5.0, "model": "ast", "fold": 0, "folds": 5, "group": "", "unlabelled": ""} | GIVEN
    options = suffix_options(suffix, words=("multi", "cpu", "pretrained", "scratch"), keys=keys)
    fold, folds = options["fold"], options["folds"]
    if folds != 5 and not fold:
        raise InputError(f"folds={folds} says how many there are: name the one that is held out too, fold=1")
    # what is not asked for is not said: sets prepared without it are found again
    asked = {"folds": folds if fold else 0, **{key: options[key] for key in ("group", "unlabelled")}}
    config = base(**{key: value for key, value in asked.items() if value})
    config.dataset.name = "folder"
    if fold:
        hold_out(config, fold, folds=folds)
    if options["unlabelled"]:
        config.dataset.train += ("unlabelled",)
    frames_a_second = given(config, options)
    if options["mel"] and options["model"] != "ast":
        raise InputError(f"model={options['model']} hears sound: features that exist already need model=ast")
    # whole patches at stride 16, at least the length
    config.num_frames = round(frames_a_second * options["seconds"] / 16 + 0.5) * 16
    config.freq_mask, config.time_mask = 24, config.num_frames // 5
    config.loss, config.metric = ("bce", "mAP") if options["multi"] else ("ce", "accuracy")
    config.epochs = 25
    if options["model"] != "ast" or options["pretrained"]:
        config.batch_size, config.least_steps, config.lr = 48, 40, 1e-4
        config.mixup, config.mixup_alpha = 1.0, 1.0
        config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    else:
        from_scratch(config, options["mel"] or 128)
    if options["pretrained"]:
        config.lr_warmup, config.lr_warmup_steps = "linear", 50
        config.layer_decay, config.clip_norm = 0.75, 1.0
        if options["cpu"]:
            config.model.variant, config.model.strides = "tiny", (16, 16)
    if options["cpu"] or options["model"] in ("ced_tiny", "ced_mini"):
        config.batch_size = 16
    if options["mel"]:
        config.freq_mask = min(config.freq_mask, options["mel"] * 3 // 16)
    if options["mel"] and options["log"] == "none":
        config.freq_mask, config.gain_db, config.mixup_of = 0, 0.0, "features"
    tagger(config, options["model"], seconds=options["seconds"])
    return config


def from_scratch(config, num_mel_bins: int = 128) -> None:
    """What docs/recipes.md has the evidence of."""
    config.model.variant, config.model.depth = "tiny", 4
    config.model.patch_shape = config.model.strides = (num_mel_bins, 4)
    # of a small set an epoch takes clips several times
    config.batch_size, config.least_steps = 16, 40
    config.lr, config.lr_warmup, config.lr_warmup_steps, config.clip_norm = 1e-3, "linear", 100, 1.0
    config.lr_decay, config.lr_decay_epochs = 0.8, tuple(range(8, 26))
    config.mixup, config.mixup_alpha, config.gain_db = 1.0, 1.0, 6.0
