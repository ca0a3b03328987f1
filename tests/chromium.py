"""A headless Chromium for the tests of pages, where the machine has one; and a server for it to look at."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ast_jax.inference.serve.limits import Limits
from ast_jax.inference.serve.server import settings

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    EXECUTABLE is None, reason="no chromium on the PATH: apt-get install chromium runs these tests"
)


@contextlib.contextmanager
def browser() -> Iterator:
    """Playwright's browser: a microphone that beeps, and no sandbox, which root's containers do not allow."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=EXECUTABLE, args=[*flags, "--mute-audio"])
        try:
            yield launched
        finally:
            launched.close()


@contextlib.contextmanager
def served(app, limits: Limits = Limits()) -> Iterator[str]:  # noqa: B008 (frozen)
    """The app behind uvicorn on a free port of this machine, in a thread; gives its address."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(settings(app, limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
