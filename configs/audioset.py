r"""AudioSet: 527 classes, several labels a clip, 10 s; the full set (about 1.95 M clips), or `balanced`
(about 20.8 k).

  python -m ast_jax.main --config=configs/audioset.py --config.dataset.source_dir=audioset
  python -m ast_jax.main --config=configs/audioset.py:balanced

Words: balanced; scratch (not from ImageNet); paper (the RGB kernels' mean, as the paper says, where the
published code sums); waveform (shards of waveforms, on which mixup is exact); pod or pod=TIMES (a larger
batch, see docs/recipes.md). The balanced figures are of PSLA's label-enhanced training set: give its table
with --config.dataset.labels=FILE.

Published: mAP 0.459 full and 0.347 balanced, weights averaged over epochs; 0.4486 and 0.3358 at the last
epoch without averaging (the reference's logs). On four TITAN X the full set took the reference about seven
days.
"""

from ast_jax.config import base, enlarge, suffix_options

FULL = (0.4153, 0.4349, 0.4476, 0.4490, 0.4486)  # mAP of epochs 1, 2, ...
BALANCED = (
    *(0.0166, 0.0513, 0.1252, 0.1914, 0.2363, 0.2645, 0.2790, 0.3000, 0.3007, 0.3127, 0.3290, 0.3330, 0.3333),
    *(0.3348, 0.3323, 0.3368, 0.3390, 0.3363, 0.3379, 0.3346, 0.3368, 0.3364, 0.3357, 0.3345, 0.3358),
)


def get_config(suffix: str = ""):
    options = suffix_options(
        suffix, words=("balanced", "scratch", "paper", "waveform", "pod"), keys={"pod": 1}
    )
    config = base()
    config.dataset.name = "audioset"
    config.dataset.train, config.dataset.eval = ("balanced", "unbalanced"), ("eval",)
    config.dataset.expected = 19_185  # evaluation clips that the published figures are of
    config.dataset.mean, config.dataset.std = -4.2677393, 4.5689974
    config.num_frames = 1024
    config.loss, config.metric = "bce", "mAP"
    config.epochs, config.batch_size, config.lr = 5, 12, 1e-5
    config.lr_warmup_steps = 1000
    config.lr_decay, config.lr_decay_epochs = 0.5, (3, 4, 5)
    config.sampling, config.mixup = "balanced", 0.5
    config.freq_mask, config.time_mask = 48, 192
    config.average_epochs, config.cumulative = (1, 5), True
    config.save_every = 5000
    curve: tuple[float, ...] = FULL
    if options["balanced"]:
        config.dataset.train = ("balanced",)
        config.epochs, config.lr, config.lr_decay_epochs = 25, 5e-5, (11, 16, 21)
        config.sampling = "shuffle"
        config.average_epochs = (6, 25)
        config.save_every = 0
        curve = BALANCED
    if not options["scratch"]:
        config.init_from = "deit_base_distilled_patch16_384"
        config.init_rgb = "mean" if options["paper"] else config.init_rgb
        published = {str(epoch): value for epoch, value in enumerate(curve, start=1)}
        average = 0.34999 if options["balanced"] else 0.45903
        config.published = {"metric": "mAP", "curve": published, "average": average, "band": 0.01}
    if options["waveform"]:
        config.dataset.kind = "waveform"
    enlarge(config, options["pod"])
    return config
