"""`predict`: tags of sound files, or of a live sound."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

from ast_jax.commands.cli import Flag
from ast_jax.commands.events import TAGS, EventFlags, listen_for_events, tell_events
from ast_jax.commands.models import AS_IT_IS, Stated, WindowS, tagger
from ast_jax.errors import InputError
from ast_jax.features.front_end import require_sound


def predict(
    files: Annotated[list[Path] | None, Flag("sound files, or directories of them", metavar="FILE")] = None,
    *,
    model: Annotated[list[str], Flag("a run or checkpoint; repeat it for an ensemble")],
    stated: Stated = AS_IT_IS,
    window_s: WindowS = None,
    hop_s: Annotated[
        float | None, Flag("seconds between windows (default: half the window)", above=0)
    ] = None,
    channels: Annotated[
        Literal["mean", "first", "loudest", "each"] | None,
        Flag("what is heard of several; each: every one by itself (default: as the model was trained)"),
    ] = None,
    top: Annotated[int, Flag("labels shown per file and window", least=1)] = 5,
    threshold: Annotated[
        float | None,
        Flag(
            "score from which a label counts as heard in a window (default: the model's own of each, else "
            "0.5)"
        ),
    ] = None,
    json: Annotated[bool, Flag("an object a file")] = False,
    csv: Annotated[bool, Flag("a row a window, a column a label")] = False,
    plot: Annotated[
        Path | None, Flag("a picture (PNG): spectrogram and timeline of the top labels", output=True)
    ] = None,
    stdin: Annotated[
        bool, Flag("tag a stream as it comes: a WAV file, or raw little-endian samples")
    ] = False,
    rate: Annotated[int, Flag("of raw samples on stdin, Hz", least=1_000, most=1_000_000)] = 16_000,
    when: EventFlags = TAGS,
    samples: Annotated[
        Literal["u8", "s16", "s24", "s32", "f32"], Flag("of raw samples on stdin: their type")
    ] = "s16",
    stream_channels: Annotated[int, Flag("of raw samples on stdin", least=1)] = 1,
) -> None:
    """Tags sound files of any length and format.

      python -m ast_jax predict --model=RUN FILE_OR_DIRECTORY ... [--json | --csv] [--plot=out.png]
      python -m ast_jax predict --model=RUN FILE_OR_DIRECTORY ... --events [--form=raven] [--out=FILE]
      arecord -q -t raw -f S16_LE -r 16000 | python -m ast_jax predict --model=RUN --stdin

    A file longer than the model's length is heard in overlapping windows, decoded as a stream. Files that
    cannot be heard are reported, the others are tagged all the same; then the status is 1. With
    --channels=each every channel is tagged by itself, as if it were a file, and said in each answer.
    """
    if bool(files) == stdin:
        raise InputError("name sound files or directories, or give --stdin, not both")
    if stdin and plot:
        raise InputError("--plot needs files: a live sound has no end")
    if json and csv:
        raise InputError("--json and --csv are two forms of one answer: choose one")
    if when != TAGS and not when.events:
        raise InputError("--form, --out, --low, --median_s and --min_... are of events: give --events too")
    by_channel = channels == "each"
    if by_channel and (stdin or plot or when.events):
        raise InputError(
            "--channels=each is of tags of files: --stdin, --plot and --events hear the first channel, the "
            "loudest, or the mean of all"
        )
    if when.events and (json or csv):
        raise InputError("--events are told by --form and --out, without --json and --csv")

    from ast_jax.inference import answers
    from ast_jax.inference.files import Failures, batch_size_for, durations_s, each_channel, sound_files
    from ast_jax.inference.windows import Source
    from ast_jax.terminal import Bar

    models = tagger(model, stated)
    if channels is not None:
        require_sound(models.models[0].front_end, "--channels")
    if channels is not None and not by_channel:
        for loaded in models.models:
            loaded.channels = channels
    heard_from = models.heard_from(threshold)
    if when.events:
        heard_from, line = models.events_from(threshold)
        print(line, file=sys.stderr)
    found = sound_files(files or [], models.models[0].front_end)
    if when.events and not stdin:
        tell_events(found, models, when, thresholds=heard_from, window_s=window_s, hop_s=hop_s, plot=plot)
        return
    grid = models.grid(window_s=window_s, hop_s=hop_s)
    form = "json" if json else "csv" if csv else "text"
    write = answers.writer(form, models.label_names, top, heard_from, by_channel=by_channel)
    if stdin:
        require_sound(grid.front_end, "--stdin")
        from ast_jax.inference.live import Pcm, live_blocks

        stream, raw = cast(io.BufferedIOBase, sys.stdin.buffer), Pcm(rate, stream_channels, samples)
        heard_at = grid.front_end.sample_rate_hz
        blocks = live_blocks(stream, raw, sample_rate_hz=heard_at, channels=grid.channels)
        if when.events:
            listen_for_events(blocks, models, when, thresholds=heard_from, window_s=window_s, hop_s=hop_s)
            return
        for tags in models.listen(blocks, grid):
            write("<stdin>", tags)
        return
    sources: Sequence[Source] = each_channel(found) if by_channel else found
    durations = durations_s(sources, grid.front_end)
    if plot:
        plot.parent.mkdir(parents=True, exist_ok=True)
    plots = answers.plot_paths(plot, found)
    failures = Failures(len(sources), "tagged", "channels" if by_channel else "files")
    with Bar(transient=True) as bar:
        advance, size = bar.task("tagging", sum(durations)).advance, batch_size_for(durations, grid)
        heard = models.tag_all(sources, grid, batch_size=size, advance=advance)
        for one in failures.reported(heard, bar):
            tags = answers.Tags.of(one, grid.window_s, models.label_names)
            with bar.aside():
                write(str(one.file), tags, one.channel)
            if plots:
                from ast_jax.inference.timeline import picture

                path = plots[str(one.file)]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(one.file, tags, grid))
    failures.exit_if_any()
