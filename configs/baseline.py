r"""The baseline of the AST paper's table 1, as far as it can be built: a perceptron on VGGish's embeddings
(Kong et al. 2018, "average pooling").

  python -m ast_jax.main --config=configs/baseline.py --config.dataset.source_dir=audioset
  python -m ast_jax.main --config=configs/baseline.py:released --config.init_from=vggish.npz

VGGish is frozen (config.freeze=backbone); its patches of .96 s are judged one by one and a clip has the mean
of their scores. Words: balanced (the 20 k clips); released (embeddings as AudioSet released them: whitened,
clipped, 8 bits; docs/weights.md has the command that makes vggish.npz, for no file of the catalogue holds the
PCA); waveform (shards of waveforms); pod or pod=TIMES (a larger batch, see docs/recipes.md).

An epoch is 1,000 steps of 500 clips, class after class. Published mAP on the full set: .300, of scores
averaged over checkpoints from 10,000 to 50,000 steps. The paper prints .314: Google's, on an embedding that
was never released.
"""

from ast_jax.config import base, baseline, enlarge, suffix_options

STEPS = 1000


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=("balanced", "released", "waveform", "pod"), keys={"pod": 1})
    config = base()
    baseline(config, seconds=10)
    config.dataset.name = "audioset"
    config.dataset.train, config.dataset.eval = ("balanced", "unbalanced"), ("eval",)
    config.loss, config.metric, config.sampling = "bce", "mAP", "round_robin"
    config.epoch_steps, config.epochs, config.save_every = STEPS, 50_000 // STEPS, STEPS
    config.init_from, config.freeze = "vggish", "backbone"
    if options["released"]:
        with config.unlocked():
            config.model.options.released = True
    if options["balanced"]:
        config.dataset.train = ("balanced",)
    else:
        # one checkpoint, where the published figure is an average of many
        config.published = {"metric": "mAP", "curve": {str(config.epochs): 0.300}, "band": 0.02}
    if options["waveform"]:
        config.dataset.kind = "waveform"
    enlarge(config, options["pod"])
    return config
