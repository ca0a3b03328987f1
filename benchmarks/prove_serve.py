r"""The page and its server under what a server meets: hostile uploads and fifty at once, with the memory they
cost; and pictures.

  python -m benchmarks.prove_serve [--model=runs/quickstart] [--axe=node_modules/axe-core/axe.min.js]

Needs Chromium and Playwright (`make test` installs the latter), and the quickstart's run and sounds. `--axe`
(from `npm install axe-core`) adds its accessibility rules, on both themes. Writes docs/proofs/serve.json and
docs/images/serve_*.png.
"""

import argparse
import http.client
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from ast_jax.config import parse
from ast_jax.datasets import synthetic
from ast_jax.features import SAMPLE_RATE, load_audio
from benchmarks.prove import DOCS, ROOT, machine
from tests.chromium import browser

IMAGES = ROOT / "docs" / "images"
AT_ONCE = 50


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_serve", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "quickstart")
    parser.add_argument("--axe", type=Path, help="axe.min.js of the npm package axe-core")
    args = parser.parse_args()
    config, *_ = parse([f"--config={ROOT / 'configs' / 'quickstart.py'}"])
    sounds = synthetic.default_source_dir(Path(config.dataset.data_dir))
    clips = synthetic.list_clips(sounds).splits["test"]
    with server(args.model) as (port, process):
        memory = Memory(process.pid)
        figures: dict[str, Any] = {"server_mb_before": memory.now_mb()}
        figures["refusals"] = refusals(port)
        figures["server_mb_after_refusals"] = memory.now_mb()
        figures["fifty_at_once"] = fifty(port, clips)
        figures |= {"server_mb_peak": memory.peak_mb(), "with_decoders_mb_peak": memory.stop()}
        figures["pictures"] = pictures(port, medley(clips), args.axe)
        figures["alive_at_the_end"] = process.poll() is None and ask(port, "GET", "/api/model")[0] == 200
    record = {"command": "python -m benchmarks.prove_serve", **figures, **machine()}
    (DOCS / "serve.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


@contextmanager
def server(model: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """`python -m ast_jax serve` on a free port."""
    command = [sys.executable, "-m", "ast_jax", "serve", f"--model={model}", "--port=0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[0].rpartition(":")[2])
        try:
            ask(port, "GET", "/api/model")  # it answers once the model is compiled
            yield port, process
        finally:
            process.terminate()


def ask(port: int, method: str, path: str, body: Any = None, length: int | None = None) -> tuple[int, Any]:
    """Status and JSON of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
    headers = {} if length is None else {"Content-Length": str(length)}
    connection.request(method, path, body=body, headers=headers)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def refusals(port: int) -> dict[str, Any]:
    """What is sent, and what comes back, after how many seconds."""
    megabyte = bytes(1_000_000)
    found = {}
    for name, body, length in (
        ("200 MB", iter([megabyte] * 200), 200_000_000),
        ("text named .wav", b"this is text\n" * 1000, None),
        ("flac of 10 hours of silence", silent_flac(hours=10), None),
    ):
        size, began = length or len(body), time.monotonic()
        status, answer = ask(port, "POST", "/api/tags", body, length)
        seconds = round(time.monotonic() - began, 2)
        found[name] = {"bytes": size, "status": status, "error": answer["error"], "seconds": seconds}
    return found


def silent_flac(hours: int) -> bytes:
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        minute = np.zeros(60 * 8000, np.int16)
        for _ in range(60 * hours):
            file.write(minute)
    return out.getvalue()


def fifty(port: int, clips: list) -> dict[str, Any]:
    """Fifty sounds of ten classes in the same moment: each gets its own answer."""
    chosen = [clips[i * len(clips) // AT_ONCE] for i in range(AT_ONCE)]
    bodies, began = [Path(clip.path).read_bytes() for clip in chosen], time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(lambda body: ask(port, "POST", "/api/tags?top=1", body), bodies))
    seconds = time.monotonic() - began
    right = sum(
        clip.id.startswith(answer["tags"][0]["label"])
        for clip, (_, answer) in zip(chosen, replies, strict=True)
    )
    statuses = {
        str(status): sum(reply[0] == status for reply in replies) for status in {r[0] for r in replies}
    }
    return {"seconds": round(seconds, 1), "statuses": statuses, "right": right}


def medley(clips: list) -> bytes:
    """A wav of one held-out clip of each of five classes."""
    wanted = ("dog_bark", "siren", "rain", "bell", "clock_tick")
    sounds = [load_audio(next(c.path for c in clips if c.id.startswith(name))) for name in wanted]
    out = io.BytesIO()
    soundfile.write(out, np.concatenate(sounds), SAMPLE_RATE, format="WAV")
    return out.getvalue()


def pictures(port: int, sound: bytes, axe: Path | None) -> dict[str, Any]:
    """Screenshots of the page with a sound on it, and axe's verdict where it is given."""
    found: dict[str, Any] = {}
    with browser() as chromium:
        for name, theme, width, height in (
            ("desktop_light", "light", 1000, 800),
            ("desktop_dark", "dark", 1000, 800),
            ("phone", "light", 390, 844),
        ):
            # what axe injects the page's own policy would forbid
            context = chromium.new_context(
                viewport={"width": width, "height": height}, color_scheme=theme, bypass_csp=True
            )
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}")
            page.get_by_label("Sound file").set_input_files(
                {"name": "medley.wav", "mimeType": "audio/wav", "buffer": sound}
            )
            page.get_by_role("heading", name="medley.wav").wait_for()
            page.locator("#player").evaluate("player => { player.currentTime = 4 }")
            page.locator("#seek").evaluate(
                "seek => { seek.value = 4; seek.dispatchEvent(new Event('input')) }"
            )
            path = IMAGES / f"serve_{name}.png"
            shot = page.screenshot(full_page=True)
            Image.open(io.BytesIO(shot)).quantize(256).save(path, optimize=True)  # a third of the size
            found[path.name] = {"bytes": path.stat().st_size}
            if axe is not None:
                page.add_script_tag(path=axe)
                verdict = page.evaluate("axe.run()")
                found[path.name]["axe"] = {
                    "passes": len(verdict["passes"]),
                    "violations": [v["id"] for v in verdict["violations"]],
                }
            context.close()
    return found


class Memory:
    """Resident memory of a process, and, twenty times a second, of it and its children together."""

    def __init__(self, pid: int):
        self._pid, self._peak, self._done = pid, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def now_mb(self) -> float:
        return round(_status_mb(self._pid, "VmRSS"), 0)

    def peak_mb(self) -> float:
        return round(_status_mb(self._pid, "VmHWM"), 0)

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return round(self._peak, 0)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            tasks = Path(f"/proc/{self._pid}/task").iterdir()
            children = [pid for task in tasks for pid in (task / "children").read_text().split()]
            total = sum(_status_mb(pid, "VmRSS") for pid in [self._pid, *children])
            self._peak = max(self._peak, total)


def _status_mb(pid: int | str, key: str) -> float:
    """From /proc; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(key + ":")), 0.0)


if __name__ == "__main__":
    main()
