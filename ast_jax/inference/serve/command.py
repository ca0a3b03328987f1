r"""Serves a page, to this machine alone, on which sounds are dropped, picked or recorded and their tags shown.

  python -m ast_jax serve --model=runs/quickstart [--port=8000]
  curl --data-binary @sound.wav http://127.0.0.1:8000/api/tags?top=3

/openapi.json describes the JSON endpoints. Needs `pip install starlette uvicorn` (the extra `serve`).
"""

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence

from ast_jax.errors import InputError
from ast_jax.inference.serve.limits import Limits

LOOPBACK = "127.0.0.1"


def main(argv: Sequence[str]) -> None:
    """Serves until Ctrl-C. Nothing sent is kept; nothing is loaded from anywhere else."""
    defaults = Limits()
    parser = argparse.ArgumentParser("python -m ast_jax serve", description=main.__doc__)
    parser.add_argument(
        "--model", action="append", required=True, help="a run or checkpoint; repeat: ensemble"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument(
        "--host", default=LOOPBACK, help="0.0.0.0 lets other machines in: there is no password"
    )
    parser.add_argument("--upload_mb", type=float, default=defaults.upload_bytes / 1e6, help="largest upload")
    parser.add_argument("--sound_s", type=float, default=defaults.sound_s, help="longest sound")
    args = parser.parse_args(argv)
    try:
        import uvicorn

        from ast_jax.inference.serve.app import make_app
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install starlette uvicorn") from error

    from ast_jax.inference.predict import Tagger

    listening = listen(args.host, args.port)
    tagger = Tagger(args.model)
    limits = Limits(upload_bytes=round(args.upload_mb * 1e6), sound_s=args.sound_s)
    own = args.host in (LOOPBACK, "localhost")
    app = make_app(tagger, limits, hosts=(LOOPBACK, "localhost") if own else ("*",))
    if not own:
        print("warning: whoever reaches this address can use this server", file=sys.stderr)
    print(f"http://{args.host}:{listening.getsockname()[1]}   (Ctrl-C stops it)", flush=True)
    with contextlib.suppress(
        KeyboardInterrupt
    ):  # uvicorn ends in order, then raises it again: this is how one stops it
        uvicorn.Server(settings(app)).run(sockets=[listening])


def settings(app):
    """uvicorn's, quiet. Not its uvloop, should that be installed: it forks, which a process with JAX's threads must not."""
    import uvicorn

    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        lifespan="on",
        log_config=None,  # errors go where Python's logging sends them: stderr
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to it, before the model is loaded. Raises InputError where that cannot be."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"--port={port}: wanted 0 to 65535, 0 for any free one")
    try:
        listening = socket.create_server((host, port), backlog=128)
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}): choose another --port") from error
    return listening
