r"""ESC-50: 2000 clips of 5 s, 50 classes, 5 folds; also any set in its layout, such as ESC-10.

  python -m ast_jax.main --config=configs/esc50.py:fold=1 --config.dataset.source_dir=ESC-50-master
  python -m ast_jax crossval --config=configs/esc50.py:P --workdir=runs/esc50        # all five folds

Words: S (from ImageNet), P (from the AudioSet checkpoint), scratch is neither; paper (20 epochs and, for S,
the RGB kernels' mean, as the paper says, instead of the published code's 25 and sum); waveform (shards of
waveforms); cpu (AST-tiny of 6 blocks at stride 16 from scratch, for two CPU cores); pod or pod=TIMES (a
larger batch, see docs/recipes.md). Keys: fold=1..5, the fold held out; model=cnn6, cnn10, cnn14, psla_b0,
psla, another model from scratch, or from config.init_from, with its own optimiser and augmentation.

Published, AST-base: S 88.7 +- 0.7 %, P 95.6 +- 0.4 % (mean of the folds; table 3 of the paper).
One epoch is 34 steps; 2.5 h for all folds on four GTX TITAN.
"""

from ast_jax.config import base, enlarge, hold_out, suffix_options, tagger

CURVE_P = {
    1: 0.7925,
    2: 0.9090,
    3: 0.9375,
    4: 0.9500,
    5: 0.9495,
    10: 0.9565,
    22: 0.9575,
    25: 0.9560,
}  # mean of the folds


def get_config(suffix: str = ""):
    options = suffix_options(
        suffix,
        words=("S", "P", "paper", "waveform", "cpu", "pod"),
        keys={"fold": 1, "model": "ast", "pod": 1},
    )
    config = base()
    config.dataset.name = "esc50"
    hold_out(config, options["fold"], folds=5)
    config.dataset.mean, config.dataset.std = -6.6268077, 5.358466
    config.num_frames = 512
    config.loss, config.metric = "ce", "accuracy"
    config.epochs, config.batch_size, config.lr = 25, 48, 1e-4
    config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    config.freq_mask, config.time_mask = 24, 96
    if options["S"]:
        config.init_from = "deit_base_distilled_patch16_384"
    if options["P"]:
        config.init_from, config.lr = "ast_audioset_10_10_0.4593", 1e-5
        config.published = {
            "metric": "accuracy",
            "curve": {str(k): v for k, v in CURVE_P.items()},
            "band": 0.01,
        }
    if options["paper"]:
        config.epochs = 20
        config.init_rgb = "mean" if options["S"] else config.init_rgb
    if options["waveform"]:
        config.dataset.kind = "waveform"
    if options["cpu"]:
        config.model.variant, config.model.depth, config.model.strides = "tiny", 6, (16, 16)
        config.batch_size, config.lr = 16, 5e-4
        config.lr_warmup, config.lr_warmup_steps = "linear", 20
        config.lr_decay_epochs = tuple(range(14, 26))
    tagger(config, options["model"], seconds=5)
    enlarge(config, options["pod"])
    return config
