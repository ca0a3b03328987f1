"""`explain`: what an answer rests on, as a picture and as arrays."""

from pathlib import Path
from typing import Annotated

import numpy as np

from ast_jax.commands.cli import Flag


def explain(
    file: Annotated[Path, Flag("a sound file")],
    *,
    model: Annotated[str, Flag("a run or checkpoint")],
    label: Annotated[list[str] | None, Flag("what to explain; repeat it (default: the best ones)")] = None,
    top: Annotated[int, Flag("how many, without --label", least=1)] = 2,
    start_s: Annotated[
        float | None, Flag("where the window begins (default: where the first label scores highest)", least=0)
    ] = None,
    out: Annotated[Path, Flag("the .npz goes beside it")] = Path("explain.png"),
) -> None:
    """Shows what a model's answer rests on, over the spectrogram of a sound file.

      python -m ast_jax explain --model=RUN FILE [--label=siren ...] [--start_s=0] [--out=explain.png]

    Writes a picture (attention rollout, and gradient x input for each label, over the spectrogram) and,
    beside it, an .npz with everything drawn and the attention of every layer and head.
    """
    from ast_jax.inference.explain import Explainer, label_indices, picture, window_at
    from ast_jax.inference.predict import Tagger

    tagger = Tagger([model])
    names, loaded = tagger.label_names, tagger.models[0]
    labels = label_indices(label, names) if label else None
    if start_s is None:
        tags = tagger.tag(file)
        aim = labels[0] if labels else int(np.argmax(tags.overall))
        start_s = float(tags.times_s[np.argmax(tags.scores[:, aim])])
    explainer = Explainer(loaded)
    fbank = window_at(file, start_s, tagger.grid())
    if labels is None:
        labels = [int(c) for c in np.argsort(-np.asarray(loaded.scores(fbank[None]))[0])[:top]]
    found = explainer.explain(fbank, labels)
    out.write_bytes(picture(found, names, start_s, loaded.front_end))
    maps = out.with_suffix(".npz")
    np.savez_compressed(
        maps,
        **vars(found) | {"labels": np.array([names[c] for c in labels])},
        label_names=np.array(names),
        start_s=start_s,
    )
    heard = "  ".join(f"{names[c]} {found.scores[c]:.3f}" for c in labels)
    print(f"{file} from {start_s:.2f} s: {heard}\n{out}\n{maps}")
