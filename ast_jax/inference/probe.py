"""How much a model knows of your classes without training it: a classifier on its embeddings.

It can be kept as a model.

SOUNDS is a set in ESC-50's layout (its own folds are used), a directory per class or a CSV table (five
stratified folds, of whole groups where the set has groups). A split for testing that the set itself has is
what is judged, and nothing is fitted to it. scikit-learn comes with the extra [probe]. N clips, D width.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from ast_jax.datasets import esc50, folder
from ast_jax.datasets.folds import folded, group_called
from ast_jax.datasets.listing import Clip, Listing, relative_to, source_root
from ast_jax.errors import InputError, printable
from ast_jax.evaluation import metrics
from ast_jax.inference import nearest
from ast_jax.models import abstract, family_name, host_variables, variables
from ast_jax.models.base import outputs
from ast_jax.models.probed import ProbedConfig
from ast_jax.weights import LoadedModel
from ast_jax.weights.pretrained import filled

# Inverse strengths of the regularisation that are tried.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
FOLDS = 5  # where the set has none of its own


# Splits by name: a probe is judged on the first kind that a set has, and fitted to neither.
HELD_OUT = (r"test(ing)?|eval(uation)?|hold[ _-]?out", r"valid(ation)?|val|dev(elopment)?")


class Labelled(NamedTuple):
    """The clips of a set, the label of each, the name of the fold that it belongs to; the labels' names.

    `judged` is the fold of the clips that the set itself holds out; where it holds out none, each fold is in
    turn. `told` is what to say of the set, a line each.
    """

    clips: list[Clip]
    labels: Int[np.ndarray, " N"]
    folds: np.ndarray
    names: list[str]
    judged: str | None = None
    told: tuple[str, ...] = ()


def labelled(sounds: Path, group: str | None = None) -> Labelled:
    """A set with its folds; what belongs together by a column `group`, or by this regular expression of the
    files' paths, is in one of them.

    Raises InputError: no set in a known layout, one class only, clips of several labels, nothing to fit to
    beside what is held out, too few of a class or groups to be held out, or groups beside given folds.
    """
    own = listed(sounds)
    if len(own.label_names) < 2:
        raise InputError(
            f"{sounds} has one class, {', '.join(own.label_names)}: name a directory with a folder for "
            "each of two or more"
        )
    judged, left_out = _held_out(() if own.drawn else own.splits)
    fitted = [name for name in own.splits if name != judged and name not in left_out]
    if not fitted:
        raise InputError(f"{sounds} has {', '.join(own.splits)} alone: wanted a split to fit to too, train")
    told = [f"{len(own.splits[name])} clips of {name} are left out" for name in left_out]
    used = {name: own.splits[name] for name in (*fitted, *([judged] if judged else ()))}
    clips = [clip for split in used.values() for clip in split]
    labels = np.array([clip.labels[0] for clip in clips])
    splits = np.repeat([*used], [*map(len, used.values())])
    side, folds = splits != judged, splits.astype("U32")
    groups = _groups(clips, sounds, group, own.notes.get("groups"))
    if len(fitted) > 1 and all(re.fullmatch(r"fold_?\d+", name) for name in fitted):
        if group:
            raise InputError(f"{sounds} has folds of its own ({', '.join(fitted)}): leave --group away")
    elif groups is None:
        folds[side] = stratified_folds(labels[side])
    else:
        folds[side] = grouped_folds(groups[side], labels[side])
    for name in sorted(set(folds[side].tolist())):
        if len(set(labels[side & (folds != name)].tolist())) < 2:
            raise InputError(
                f"{sounds}: with {name} held out one class is left: wanted two or more to tell apart"
            )
    if groups is not None and (both := sorted({*groups[side]} & {*groups[~side]})):
        told.append(f"{len(both)} groups are in {judged} too, which flatters ({', '.join(both[:3])})")
    return Labelled(clips, labels, folds, list(own.label_names), judged, tuple(told))


def listed(sounds: Path) -> Listing:
    """A set of clips of one label each. Raises InputError for another."""
    own = esc50.list_clips(sounds) if (sounds / "meta" / "esc50.csv").is_file() else folder.list_clips(sounds)
    if own.multi_label:
        raise InputError(f"{sounds} has clips of several labels: probe takes one label a clip")
    return own


def more(sounds: Path) -> Labelled:
    """Clips of classes to be added, one or more; of a set that holds clips out, the others. Raises InputError
    as `listed` does, and where nothing else is there.
    """
    own = listed(sounds)
    judged, left_out = _held_out(() if own.drawn else own.splits)
    away = [name for name in (judged, *left_out) if name]
    clips = [clip for name, split in own.splits.items() if name not in away for clip in split]
    if len({clip.labels for clip in clips}) < len(own.label_names):
        raise InputError(
            f"{sounds}: a class has no clips beside {' and '.join(away) or 'none'}: wanted one each"
        )
    labels = np.array([clip.labels[0] for clip in clips])
    told = tuple(f"{len(own.splits[name])} clips of {name} are left out" for name in away)
    return Labelled(clips, labels, np.full(len(clips), ""), list(own.label_names), None, told)


def _held_out(splits: Iterable[str]) -> tuple[str | None, list[str]]:
    """The split that is judged, if any, and others that are held out from the fit as well."""
    found = [name for kind in HELD_OUT for name in splits if re.fullmatch(kind, name.lower())]
    return (found[0], found[1:]) if found else (None, [])


def _groups(
    clips: Sequence[Clip], sounds: Path, pattern: str | None, named: Mapping[str, str] | None
) -> np.ndarray | None:
    """Whose each clip is, by a pattern or by the set's own notes; None where nobody says."""
    root = source_root(sounds)
    paths = [relative_to(clip.path, root) for clip in clips]
    if pattern:
        return np.array([group_called(path, pattern) for path in paths])
    return None if named is None else np.array([named[printable(path)] for path in paths])


def grouped_folds(groups: np.ndarray, labels: Int[np.ndarray, " N"]) -> np.ndarray:
    """Five folds of whole groups, or as many as there are groups. Raises InputError for one group alone."""
    if (count := min(FOLDS, len(set(groups.tolist())))) < 2:
        raise InputError(f"all clips are of one group ({groups[0]}): there is none to hold out")
    return np.array([f"fold{n}" for n in folded(groups.tolist(), [(str(label),) for label in labels], count)])


def stratified_folds(labels: Int[np.ndarray, " N"], seed: int = 0) -> np.ndarray:
    """Five folds with each class spread evenly over them.

    Raises InputError where a class has fewer clips than that.
    """
    from sklearn.model_selection import StratifiedKFold

    smallest = int(np.min(np.unique(labels, return_counts=True)[1]))
    if smallest < FOLDS:
        raise InputError(f"a class has {smallest} clips: cross-validation wants {FOLDS} or more of each")
    folds = np.empty(len(labels), "U8")
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels[:, None], labels)
    for number, (_, held_out) in enumerate(split, 1):
        folds[held_out] = f"fold{number}"
    return folds


def cross_validate(
    vectors: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    folds: np.ndarray,
    *,
    C: float = 1.0,
    judged: str | None = None,
) -> dict[str, Any]:
    """{accuracy (mean of the folds), spread (standard deviation over them), folds {name: accuracy}}, of the
    fold `judged` alone where there is one.

    Features are standardised by the training folds' own mean and deviation.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = {}
    for fold in [judged] if judged else sorted(set(folds.tolist())):
        held_out = folds == fold
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
        classifier.fit(vectors[~held_out], labels[~held_out])
        found[fold] = float(classifier.score(vectors[held_out], labels[held_out]))
    return over_folds(found)


def over_folds(found: dict[str, float]) -> dict[str, Any]:
    """Of each fold's accuracy mean and standard deviation, and these."""
    shares = list(found.values())
    spread = float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0
    return {"accuracy": float(np.mean(shares)), "spread": spread, "folds": found}


@dataclasses.dataclass(frozen=True)
class Probe:
    """A head on embeddings, and what clips that it was not fitted to say of it."""

    # of `probed.HEADS`, and its arrays
    kind: str
    head: dict[str, np.ndarray]
    # C of a linear one, else how many neighbours vote
    chosen: float
    # of what the set holds out, or each fold held out in turn, what is chosen being chosen inside the others
    accuracy: float
    folds: dict[str, float]
    # of the scores on clips held out: what logits are divided by, and from which score on a class is found
    temperature: float
    thresholds: list[float]


class Kind(NamedTuple):
    """What a head is chosen from; the logits of other clips by each of these; how wrong logits are; the
    arrays of a head that is fitted with one of them and divided by a temperature.
    """

    choices: tuple[float, ...]
    logits: Callable[[np.ndarray, np.ndarray, int, np.ndarray], np.ndarray]
    wrong: Callable[[np.ndarray, np.ndarray], float]
    head: Callable[[np.ndarray, np.ndarray, int, float, float], dict[str, np.ndarray]]


def fit_probe(
    vectors: Float[np.ndarray, "N V"],
    labels: Int[np.ndarray, " N"],
    folds: np.ndarray,
    classes: int,
    *,
    kind: str = "linear",
    judged: str | None = None,
) -> Probe:
    """A head whose strength or number of neighbours, temperature and thresholds come from clips held out, by
    folds; clips of the fold `judged` are no part of any of it, and say what it is worth.
    """
    own, test = KINDS[kind], folds == judged
    x, y, folds = vectors[~test], labels[~test], folds[~test]
    held = held_out_logits(own, x, y, folds, classes)
    best = _best(own, held, y)
    # of what is fitted below: other choices have logits of another size
    temperature = _temperature(held[best], y)
    scores = softmax(held[best] / temperature, axis=1).astype(np.float32)
    found = metrics.Scored(scores, np.eye(classes, dtype=np.float32)[y])
    if judged:
        right = own.logits(x, y, classes, vectors[test])[best].argmax(axis=1) == labels[test]
        shares = {judged: float(right.mean())}
    else:
        shares = _nested(own, x, y, folds, held)
    return Probe(
        kind=kind,
        head=own.head(x, y, classes, own.choices[best], temperature),
        chosen=own.choices[best],
        accuracy=float(np.mean(list(shares.values()))),
        folds=shares,
        temperature=temperature,
        thresholds=[float(t) for t in found.thresholds],
    )


def _nested(
    kind: Kind, vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray, held: Float[np.ndarray, "S N C"]
) -> dict[str, float]:
    """Each fold's accuracy by what is best inside the others."""
    shares = {}
    for name in sorted(set(folds.tolist())):
        out = folds == name
        x, y = vectors[~out], labels[~out]
        inside = held_out_logits(kind, x, y, _inner(folds[~out], y), held.shape[2])
        found = held[_best(kind, inside, y), out].argmax(axis=1)
        shares[name] = float((found == labels[out]).mean())
    return shares


def _inner(folds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The folds as they are; stratified ones of one fold alone, which leaves nothing to fit to."""
    if len(set(folds.tolist())) > 1:
        return folds
    own = folded([str(i) for i in range(len(labels))], [(str(y),) for y in labels], min(FOLDS, len(labels)))
    return np.array(own)


def regression(
    vectors: Float[np.ndarray, "N V"], labels: Int[np.ndarray, " N"], C: float, classes: int
) -> tuple[Float[np.ndarray, "V C"], Float[np.ndarray, " C"]]:
    """Kernel and bias of a logistic regression on standardised vectors, as a map of vectors as they are."""
    return regressions(vectors, labels, (C,), classes)[0]


def regressions(
    vectors: Float[np.ndarray, "N V"], labels: Int[np.ndarray, " N"], strengths: Sequence[float], classes: int
) -> list[tuple[Float[np.ndarray, "V C"], Float[np.ndarray, " C"]]]:
    """The same for each of several strengths.

    Of fewer clips than numbers they are fitted in the space that the clips span: with an L2 penalty nothing
    lies outside.
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    x, turn = ((vectors - mean) / deviation).astype(np.float64), None
    if len(x) < x.shape[1]:
        u, singular, turn = np.linalg.svd(x, full_matrices=False)
        x = u * singular
    found = []
    for strength in strengths:
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(x, labels)
        there, intercept = fitted.coef_, fitted.intercept_
        if len(fitted.classes_) == 2:  # one row, for the second against the first
            there, intercept = np.concatenate([-there, there]) / 2, np.array([-0.5, 0.5]) * intercept
        own = (there if turn is None else there @ turn).T / deviation[:, None]
        kernel, bias = np.zeros((len(mean), classes)), np.full(classes, -1e4)
        kernel[:, fitted.classes_], bias[fitted.classes_] = own, intercept - mean @ own
        found.append((kernel, bias))
    return found


def held_out_logits(
    kind: Kind, vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int
) -> Float[np.ndarray, "S N C"]:
    """Of each clip by each choice, fitted to the other folds; 0 where these know one class alone."""
    logits = np.zeros((len(kind.choices), len(labels), classes))
    for name in sorted(set(folds.tolist())):
        out = folds == name
        if len(set(labels[~out].tolist())) > 1:
            logits[:, out] = kind.logits(vectors[~out], labels[~out], classes, vectors[out])
    return logits


def _best(kind: Kind, logits: Float[np.ndarray, "S N C"], labels: np.ndarray) -> int:
    """Which choice judges clips held out best."""
    return int(np.argmin([kind.wrong(each, labels) for each in logits]))


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """What logits are divided by so that their log loss is least (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda t: _loss(logits / np.exp(t), labels), bounds=(-4, 4), method="bounded")
    return float(np.exp(found.x))


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(np.maximum(softmax(logits, axis=1)[np.arange(len(labels)), labels], 1e-12)).mean())


def _loss_at_best(logits: np.ndarray, labels: np.ndarray) -> float:
    """With a temperature of their own."""
    return _loss(logits / _temperature(logits, labels), labels)


def _linear_logits(vectors: np.ndarray, labels: np.ndarray, classes: int, x: np.ndarray) -> np.ndarray:
    maps = regressions(vectors, labels, STRENGTHS, classes)
    return np.stack([x @ kernel + bias for kernel, bias in maps])


def _linear_head(
    vectors: np.ndarray, labels: np.ndarray, classes: int, strength: float, temperature: float
) -> dict[str, np.ndarray]:
    kernel, bias = regression(vectors, labels, strength, classes)
    return {"kernel": kernel / temperature, "bias": bias / temperature}


def _nearest(name: str) -> Kind:
    """Examples: shares of so many votes are of another size than those of others, so that each is judged with
    a temperature of its own.
    """

    def head(
        vectors: np.ndarray, labels: np.ndarray, classes: int, neighbours: float, temperature: float
    ) -> dict[str, np.ndarray]:
        own = nearest.fitted(name, vectors, labels, classes)
        return {**own, "temperature": np.array([temperature])}

    return Kind(nearest.NEIGHBOURS[name], functools.partial(nearest.logits, name), _loss_at_best, head)


KINDS = {
    "linear": Kind(STRENGTHS, _linear_logits, _loss, _linear_head),
    **{name: _nearest(name) for name in nearest.NEIGHBOURS},
}


def read_of(
    loaded: LoadedModel, layers: Sequence[int] | str, pools: Sequence[str], names: Sequence[str]
) -> LoadedModel:
    """A model with a new head for these classes on these layers of a loaded one, or on the `last` or `all`.

    Raises InputError: no such layer, or a pool that the family has not.
    """
    base, config = loaded.model, loaded.model.config
    shapes = outputs(base)
    there = shapes.get("layers", [shapes])
    numbers = tuple(range(len(there)))
    if isinstance(layers, str):
        layers = {"all": numbers, "last": numbers[-1:]}[layers]
    if wrong := [number for number in layers if number not in numbers]:
        raise InputError(f"layer {wrong[0]}: this model has 0 (its patches) to {len(there) - 1} (the last)")
    if "sequence" not in there[-1] and set(pools) != {"token"}:
        raise InputError(f"this model has no steps of time: choose the pool token, not {', '.join(pools)}")
    own = ProbedConfig(
        num_classes=len(names),
        num_frames=config.num_frames,
        base=family_name(base),
        fields=tuple(sorted(vars(config).items())),
        layers=tuple(layers),
        pools=tuple(pools),
        width=int(there[-1]["embedding"].shape[-1]),
    )
    arrays = {f"base/{path}": value for path, value in host_variables(base).items()}
    head = variables(abstract("probed", own).head)
    arrays |= {f"head/{path}": np.zeros(value.shape, np.float32) for path, value in head.items()}
    return dataclasses.replace(
        loaded,
        model=filled("probed", own, arrays),
        label_names=list(names),
        activation="softmax",
        thresholds=None,
        frame_thresholds=None,
        new_head=True,
    )


def with_probe(loaded: LoadedModel, probe: Probe) -> LoadedModel:
    """What `read_of` gives, with the fitted head: a model that every command takes."""
    arrays = {path: value for path, value in host_variables(loaded.model).items() if path.startswith("base/")}
    arrays |= {f"head/{name}": value.astype(np.float32) for name, value in probe.head.items()}
    fields: dict[str, Any] = {"head": probe.kind}
    if probe.kind in nearest.NEIGHBOURS:
        count = len(probe.head["examples"])
        fields |= {"examples": count, "neighbours": int(min(probe.chosen, count))}
    model = filled("probed", dataclasses.replace(loaded.model.config, **fields), arrays)
    return dataclasses.replace(loaded, model=model, thresholds=list(probe.thresholds), new_head=False)
