r"""PANNs on AudioSet (Kong et al. 2020): CNN14 and its relatives, in the published settings.

  python -m ast_jax.main --config=configs/panns.py --config.dataset.source_dir=audioset
  python -m ast_jax.main --config=configs/panns.py:balanced,model=cnn6

Words: balanced (the 20 k clips; the published figure is near 100,000 steps, the recipe stops there); 16k
(sound at 16 kHz instead of 32); waveform (shards of waveforms: exact, and ten times as large); pod or
pod=TIMES (a larger batch, see docs/recipes.md). Keys: model=cnn6, cnn10, cnn14 (default),
cnn14_decision_max, cnn14_decision_att or wavegram_logmel_cnn14 (which hears waveforms, at 32 kHz alone).

An epoch is 2,000 steps, after which PANNs evaluates; 32 mixed pairs a step. Published mAP: CNN14 .431 (.438
at 16 kHz), with the wavegram .439, CNN10 .380, CNN6 .343, frame-wise .385 (max) and .425 (attention), after
600,000 steps, three to seven days on a V100; CNN14 .278 on the balanced set. Shards of log-mels hold decibels
in 16 bits: exact to .03 dB.
"""

from ast_jax.config import base, enlarge, panns, suffix_options
from ast_jax.errors import InputError

FULL = {
    "cnn6": 0.343,
    "cnn10": 0.380,
    "cnn14": 0.431,
    "cnn14_decision_max": 0.385,
    "cnn14_decision_att": 0.425,
    "wavegram_logmel_cnn14": 0.439,
}
STEPS = 2000


def get_config(suffix: str = ""):
    options = suffix_options(
        suffix, words=("balanced", "16k", "waveform", "pod"), keys={"model": "cnn14", "pod": 1}
    )
    if options["model"] not in FULL:
        raise InputError(f"model={options['model']}: choose one of {', '.join(FULL)}")
    config = base()
    panns(config, options["model"], seconds=10)
    config.dataset.name = "audioset"
    config.dataset.train, config.dataset.eval = ("balanced", "unbalanced"), ("eval",)
    config.dataset.expected = 18_887  # evaluation clips that the published figures are of
    config.loss, config.metric, config.sampling = "bce", "mAP", "round_robin"
    config.epoch_steps, config.epochs, config.save_every = STEPS, 600_000 // STEPS, STEPS
    published = FULL[options["model"]]
    if options["16k"]:
        with config.unlocked():
            config.model.options.sample_rate_hz = 16_000
        published = 0.438 if options["model"] == "cnn14" else 0.0
    if options["balanced"]:
        config.dataset.train, config.epochs = ("balanced",), 100_000 // STEPS
        published = 0.278 if options["model"] == "cnn14" and not options["16k"] else 0.0
    if published:
        config.published = {"metric": "mAP", "curve": {str(config.epochs): published}, "band": 0.01}
    if options["waveform"]:
        config.dataset.kind = "waveform"
    enlarge(config, options["pod"])
    return config
