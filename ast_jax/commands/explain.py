"""`explain`: what an answer rests on, as a picture and as arrays."""

from pathlib import Path
from typing import Annotated

import numpy as np

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated, tagger


def explain(
    file: Annotated[Path, Flag("a sound file")],
    *,
    model: Annotated[str, Flag("a run or checkpoint")],
    stated: Stated = AS_IT_IS,
    label: Annotated[list[str] | None, Flag("what to explain; repeat it (default: the best ones)")] = None,
    top: Annotated[int, Flag("how many, without --label", least=1)] = 2,
    start_s: Annotated[
        float | None, Flag("where the window begins (default: where the first label scores highest)", least=0)
    ] = None,
    out: Annotated[Path, Flag("the .npz goes beside it", output=True)] = Path("explain.png"),
) -> None:
    """Shows what a model's answer rests on, over the spectrogram of a sound file.

      python -m ast_jax explain --model=RUN FILE [--label=siren ...] [--start_s=0] [--out=explain.png]

    Writes a picture (attention rollout where the model attends, and gradient x input for each label, over the
    spectrogram) and, beside it, an .npz with everything drawn and the attention of every layer and head.
    """
    found = tagger([model], stated).explain(file, label or (), top=top, start_s=start_s)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(found.picture())
    maps = out.with_suffix(".npz")
    names = [name for name, _ in found.best()]
    arrays = ("fbank", "scores", "rollout", "gradient", "attention")
    np.savez_compressed(
        maps,
        **{name: array for name in arrays if (array := getattr(found, name)) is not None},
        labels=np.array(names),
        label_names=np.array(found.label_names),
        start_s=found.start_s,
    )
    heard = "  ".join(f"{name} {score:.3f}" for name, score in found.best())
    print(f"{file} from {found.start_s:.2f} s: {heard}\n{out}\n{maps}")
