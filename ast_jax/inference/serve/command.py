r"""Serves a page, to this machine alone, on which sounds are dropped, picked or recorded and their tags shown.

  python -m ast_jax serve --model=runs/quickstart [--port=8000]
  curl --data-binary @sound.wav http://127.0.0.1:8000/api/tags?top=3

/openapi.json describes the JSON endpoints. Needs `pip install starlette uvicorn` (the extra `serve`).
"""

import argparse
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
    uvicorn.Server(settings(app)).run(sockets=[listening])


def settings(app):
    """uvicorn's, quiet. Not its uvloop, should that be installed: it forks, which a process with JAX's threads must not."""
    import uvicorn

    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to it, before the model is loaded. Raises InputError where that cannot be."""
    try:
        listening = socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}): choose another --port") from error
    return listening
