"""The model card for people: a README.md in every directory that is written, in Hugging Face's form.

Its words are in `templates/README.md.j2`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ast_jax.models import num_parameters
from ast_jax.weights.pretrained import LoadedModel
from ast_jax.weights.program import Takes, samples

README = "README.md"
_KINDS = {
    "ast": "An Audio Spectrogram Transformer "
    "([Gong et al. 2021](https://doi.org/10.21437/Interspeech.2021-698))",
    "cnn14": "PANNs' CNN14 ([Kong et al. 2020](https://arxiv.org/abs/1912.10211))",
    "psla": "PSLA's EfficientNet ([Gong et al. 2021](https://arxiv.org/abs/2102.01243))",
    "passt": "A PaSST ([Koutini et al. 2022](https://arxiv.org/abs/2110.05069))",
    "ced": "A CED transformer ([Dinkel et al. 2023](https://arxiv.org/abs/2308.11957))",
    "eat": "An EAT transformer ([Chen et al. 2024](https://arxiv.org/abs/2401.03497))",
    "beats": "A BEATs transformer ([Chen et al. 2022](https://arxiv.org/abs/2212.09058))",
}


def facts_of(src: str | os.PathLike, which: str) -> dict[str, Any]:
    """What is known of a checkpoint: {source}, and of a run of ours also {which, config, results}."""
    root, facts = Path(src), {"source": os.fspath(src)}
    if not (root / "checkpoints").is_dir():
        return facts
    paths = {"config": root / "config.json", "results": root / "results.json"}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    return {**facts, "which": which, **found}


def text(
    loaded: LoadedModel,
    *,
    to: str,
    name: str,
    facts: Mapping[str, Any],
    takes: Takes = "log_mel",
    measured: Sequence[str] = (),
) -> str:
    """The card of a model written as `to`; `facts` from `facts_of`, `measured` lines about a program that
    `takes` features or waveforms. What nobody knows is called unknown.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    source, config, results = facts["source"], facts.get("config"), facts.get("results")
    card, model = loaded.card(), loaded.model.config
    family = card.get("family", "ast")
    loader = PackageLoader("ast_jax.weights")
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("README.md.j2").render(
        to=to,
        name=name,
        takes=takes,
        measured=measured,
        samples=samples(loaded),
        family=family,
        kind=_KINDS.get(family, f"A model of the family {family}"),
        millions=num_parameters(loaded.model) / 1e6,
        length=f"{loaded.front_end.seconds(model.num_frames):g}",
        loaded=loaded,
        heard=loaded.front_end,
        num_frames=model.num_frames,
        configuration=json.dumps(card["model"], indent=1),
        # Without its directories: they are nobody's business.
        notes=[note.replace(source, Path(source).name) for note in loaded.notes],
        config=config,
        started_from=(Path(config["init_from"]).name or "random numbers") if config else None,
        which=facts.get("which"),
        results=results,
        best=(results or {}).get("best") or {},
    )
