"""What a table of events comes to: how often and how long each label, and when, where files' names say when
they begin.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from ast_jax.events.table import Event

# Acoustic recorders' convention: SITE_YYYYMMDD_HHMMSS, with any site or none (AudioMoth, Song Meter, SWIFT).
_DATED = re.compile(
    r"(?:^|[^0-9])([12][0-9]{3}[01][0-9][0-3][0-9])[_T-]?([0-2][0-9][0-5][0-9][0-5][0-9])(?:[^0-9]|$)"
)


class Total(NamedTuple):
    """Of one label: how many events, how many seconds of it, in how many files."""

    label: str
    events: int
    seconds: float
    files: int


def started(file: str) -> datetime | None:
    """When a recording begins, by its name; None if that does not say, or not a moment there is."""
    found = _DATED.search(Path(file).stem)
    if found is None:
        return None
    try:
        return datetime.strptime("".join(found.groups()), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def totals(events: Iterable[Event]) -> list[Total]:
    """Of each label, the most frequent first."""
    own: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        own[event.label].append(event)
    rows = [
        Total(label, len(some), sum(e.offset_s - e.onset_s for e in some), len({e.file for e in some}))
        for label, some in own.items()
    ]
    return sorted(rows, key=lambda row: (-row.events, row.label))


def by_hour(events: Iterable[Event]) -> Counter[tuple[str, str, int]]:
    """{(label, day as YYYY-MM-DD, hour): events that begin in it}; of files whose names have a date."""
    counts: Counter[tuple[str, str, int]] = Counter()
    for event in events:
        begin = started(event.file)
        if begin is not None:
            moment = begin + timedelta(seconds=event.onset_s)
            counts[event.label, moment.strftime("%Y-%m-%d"), moment.hour] += 1
    return counts


def recorded(seconds: Mapping[str, float]) -> dict[tuple[str, int], float]:
    """{(day, hour): seconds of it that were recorded}, by how long each file is, of those named by date."""
    found: dict[tuple[str, int], float] = defaultdict(float)
    for file, lasting in seconds.items():
        if (moment := started(file)) is None:
            continue
        end = moment + timedelta(seconds=lasting)
        while moment < end:
            until = min(end, moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
            found[moment.strftime("%Y-%m-%d"), moment.hour] += (until - moment).total_seconds()
            moment = until
    return dict(sorted(found.items()))
