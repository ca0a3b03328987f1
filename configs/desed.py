r"""DESED: ten kinds of sounds at home, 10 s clips; real ones with labels alone, synthetic ones with events,
real ones with events to be tested on (Turpault et al., DCASE 2019, task 4).

  python -m ast_jax.main --config=configs/desed.py --config.dataset.source_dir=DESED --workdir=runs/desed

The layout is DESED's own: metadata/train/weak.tsv (filename, event_labels), metadata/train/SYNTHETIC/
soundscapes.tsv and metadata/validation/validation.tsv (filename, onset, offset, event_label), their sounds in
the directories of the same names below audio/. Key: synthetic=synthetic21_train, the name of the synthetic
part. Steps are 160 ms apart. There is no figure of AST to compare with: the recipe is `events`' own.
"""

from ast_jax.config import base, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, keys={"synthetic": "synthetic21_train"})
    part = f"train/{options['synthetic']}/soundscapes"
    config = base()
    config.dataset.name = "events"
    config.dataset.options = {
        "tables": {"train": f"metadata/{part}.tsv", "test": "metadata/validation/validation.tsv"},
        "weak": {"train": "metadata/train/weak.tsv"},
        "sounds_dir": (
            (f"metadata/{part}.tsv", f"audio/{part}"),
            ("metadata/validation/validation.tsv", "audio/validation/validation"),
            ("metadata/train/weak.tsv", "audio/train/weak"),
        ),
    }
    config.num_frames = 1024
    config.model.head, config.model.strides = "frames", (16, 16)
    config.epochs, config.batch_size, config.lr = 25, 24, 1e-4
    config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 26))
    config.freq_mask, config.mixup = 24, 0.5
    config.loss, config.metric = "frames_bce", "mAP"
    return config
