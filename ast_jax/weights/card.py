"""The model card for people: a README.md in every directory that is written, in Hugging Face's form. The one place for its text."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ast_jax.models import num_parameters
from ast_jax.weights.pretrained import LoadedModel

README = "README.md"
_METRICS = {"accuracy": "accuracy", "mAP": "mAP", "auc": "ROC AUC (mean of the classes)", "d_prime": "d'"}


def facts_of(src: str | os.PathLike, which: str) -> dict[str, Any]:
    """What is known of a checkpoint: {source}, and of a run of ours also {which, config, results}."""
    root, facts = Path(src), {"source": os.fspath(src)}
    if not (root / "checkpoints").is_dir():
        return facts
    paths = {"config": root / "config.json", "results": root / "results.json"}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    return {**facts, "which": which, **found}


def text(loaded: LoadedModel, *, to: str, name: str, facts: Mapping[str, Any]) -> str:
    """The card of a model written as `to`; `facts` from `facts_of`. What nobody knows is said to be unknown."""
    kind = "several labels a clip" if loaded.activation == "sigmoid" else "one label a clip"
    config = loaded.model.config
    length_s = loaded.front_end.seconds(config.num_frames)
    millions = num_parameters(loaded.model) / 1e6
    sections = [
        "---\npipeline_tag: audio-classification\nlibrary_name: ast_jax\ntags: [audio, audio-spectrogram-transformer]\n---",
        f"# {name}",
        f"An Audio Spectrogram Transformer ([Gong et al. 2021](https://doi.org/10.21437/Interspeech.2021-698)) of "
        f"{millions:.1f} million parameters: it hears {length_s:g} s of sound and scores {len(loaded.label_names)} classes, {kind}.",
        "## Intended use\n\n"
        f"Tagging recordings with the classes below, {length_s:g} s at a time; embeddings for classifiers of your own. "
        "Scores say how sure the model is, not how loud or how near a sound was, and a sound of none of the classes still gets "
        "scores. Check it on your own microphones and places before relying on it; not for decisions about people, nor where "
        "a missed sound does harm.",
        f"## How to use it\n\n{_usage(to)}",
        f"## Input\n\n{_input(loaded)}",
        f"## Data and training\n\n{_training(loaded, facts)}",
        f"## Metrics\n\n{_metrics(facts)}",
        f"## Classes\n\n{', '.join(loaded.label_names)}",
        f"## Configuration\n\n```json\n{json.dumps(loaded.card()['model'], indent=1)}\n```",
        "## Licence\n\nThat of the data and of the weights it started from; the code that made it is under Apache-2.0.",
    ]
    return "\n\n".join(sections) + "\n"


def _input(loaded: LoadedModel) -> str:
    config, front_end = loaded.model.config, loaded.front_end
    mixed = "the mean of the channels" if loaded.channels == "mean" else "the first channel"
    return (
        f"{front_end.sample_rate_hz} Hz mono ({mixed}); log-mel features of Kaldi's kind, {front_end.num_mel_bins} bins, 25 ms windows "
        f"every 10 ms (`ast_jax.log_mel`), [batch, {config.num_frames}, {front_end.num_mel_bins}], zero rows past a clip's end. "
        f"The features go to the model as (x - {front_end.mean:g}) / (2 x {front_end.std:g})."
    )


def _usage(to: str) -> str:
    if to == "huggingface":
        return '```python\nfrom transformers import pipeline\n\npipeline("audio-classification", "THIS_DIRECTORY")("sound.wav")\n```'
    if to == "onnx":
        return (
            "Normalisation is inside; in: `fbank` [batch, frames, mel bins], out: `logits` and `scores` [batch, classes].\n\n"
            "```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession('model.onnx')\n"
            "logits, scores = session.run(None, {'fbank': fbank})\n```"
        )
    here = "`python -m ast_jax predict --model=THIS_DIRECTORY sound.wav`"
    if to == "flax":
        return here
    return (
        f"{here}, or without ast_jax, on CPU, NVIDIA GPU or TPU; normalisation is inside:\n\n"
        "```python\nimport jax, jax.export\nfrom safetensors.numpy import load_file\n\n"
        "params = load_file('model.safetensors')\n"
        "program = jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read()))\n"
        "logits, scores = program.call(params, fbank)  # float32 [batch, frames, mel bins], any batch\n```"
    )


def _training(loaded: LoadedModel, facts: Mapping[str, Any]) -> str:
    source = facts["source"]  # without its directories: they are nobody's business
    notes = "\n".join(f"- {note.replace(source, Path(source).name)}" for note in loaded.notes)
    if "config" not in facts:
        return f"Not known here: the weights came without the record of a run.\n\n{notes}"
    config = facts["config"]
    data = config["dataset"]
    rows = {
        "data set": data["name"],
        "trained on": ", ".join(data["train"]),
        "evaluated on": ", ".join(data["eval"]),
        "started from": Path(config["init_from"]).name or "random numbers",
        "epochs": config["epochs"],
        "batch size": config["batch_size"],
        "learning rate": config["lr"],
        "loss": config["loss"],
        "mixup": config["mixup"],
        "frequency and time masks": f"{config['freq_mask']} bins, {config['time_mask']} frames",
        "weights": facts["which"],
    }
    return f"{_table(rows)}\n\n{notes}"


def _metrics(facts: Mapping[str, Any]) -> str:
    results = facts.get("results")
    if not results:
        return "Not measured here."
    figures = results["metrics"]
    rows = {label: f"{figures[key]:.4f}" for key, label in _METRICS.items() if figures.get(key) is not None}
    rows["clips"] = results["num_examples"]
    best = results.get("best") or {}
    note = f"Of the last epoch, {results['epoch']}."
    if best.get("value") is not None:
        note += f" The best one, {best['epoch']}, had {best['metric']} {best['value']:.4f}: chosen on these very clips."
    return f"{_table(rows)}\n\n{note}"


def _table(rows: Mapping[str, Any]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())
