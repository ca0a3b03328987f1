r"""BirdSet's High Sierra Nevada (HSN): 21 birds, from Xeno-Canto to soundscapes (Rauch et al. 2024).

  python -m ast_jax.main --config=configs/birdset.py --config.dataset.source_dir=BirdSet/HSN

Words: S (from ImageNet), scratch (neither; else from the AudioSet checkpoint), cpu (AST-tiny of 6 blocks at
stride 16 from scratch, for two CPU cores), waveform (shards of waveforms), pieces (every 5 s of a recording,
all with its label; else its first 5 s).

As in the published configuration of AST (configs/experiment/birdset_neurips24/HSN/DT/ast.yaml of
github.com/DBD-research-group/BirdSet): AudioSet's checkpoint, rate 1e-5, 15 epochs, batches of 14, BCE, a
fifth of the recordings held out, by which the epoch is chosen. Not as there: that takes up to five detected
calls of a recording (600 a bird), has AdamW with a cosine schedule, and augments in its own way; here are
the first 5 s, mixup and SpecAugment.

Published of models trained on HSN alone, on test_5s (the authors' leaderboard,
huggingface.co/datasets/DBD-research-group/Leaderboard-Results, not read off the paper's table): AST cmAP
.30, AUROC .83, top-1 .46; EAT .35, .79, .43; wav2vec 2.0 .34, .79, .36. cmAP is `mAP` here, AUROC `auc`;
their top-1 leaves out segments without a bird, which `accuracy` counts as missed.
"""

from ast_jax.config import FINE_TUNING, base, fine_tuning, suffix_options


def get_config(suffix: str = ""):
    options = suffix_options(suffix, words=(*FINE_TUNING, "pieces"))
    config = base(**({"cut_s": 5.0} if options["pieces"] else {}))
    config.dataset.name = "birdset"
    config.dataset.train, config.dataset.eval = ("train",), ("valid",)
    config.dataset.test = ("test_5s",)
    fine_tuning(config, options, seconds=5)
    config.loss, config.metric, config.epochs, config.mixup = "bce", "mAP", 15, 0.5
    if not options["cpu"]:
        config.batch_size = 14
    return config
