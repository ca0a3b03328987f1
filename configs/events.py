r"""Your own sounds with events: tables that say what is heard from when to when (columns file, onset, offset,
label; Audacity's label tracks; Raven's selection tables; RTTM).

  python -m ast_jax.main --config=configs/events.py --config.dataset.source_dir=events.tsv --workdir=runs/mine
  python -m ast_jax predict --model=runs/mine --events recording.wav

The model judges steps of time, and is taught by events and by what they make of the clip. Words: weak (events
are kept from it: labels of clips alone teach it), cpu (AST-tiny at stride 16, for CPU cores). Keys: seconds
(the model's length), default 5. Longer files are cut into pieces of that length, each with the labels
of its own events.
"""

from ast_jax.config import base, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=("weak", "cpu"), keys={"seconds": 5.0})
    config = base()
    config.dataset.name = "events"
    config.dataset.options = {"cut_s": options["seconds"]}
    config.num_frames = round(100 * options["seconds"] / 16 + 0.5) * 16
    config.model.head = "frames"
    config.epochs, config.batch_size, config.lr = 25, 48, 1e-4
    config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    config.freq_mask, config.time_mask = 24, 0
    config.loss, config.metric = "bce" if options["weak"] else "frames_bce", "mAP"
    if options["cpu"]:
        config.model.variant, config.model.strides = "tiny", (16, 16)
        config.batch_size, config.lr = 16, 3e-4
        config.lr_decay_epochs = tuple(range(12, 26))
    return config
