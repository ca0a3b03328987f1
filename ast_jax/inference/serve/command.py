r"""Serves a page, to this machine alone, on which sounds are dropped, picked or recorded, and tagged.

  python -m ast_jax serve --model=runs/quickstart [--port=8000]
  curl --data-binary @sound.wav http://127.0.0.1:8000/api/tags?top=3

/openapi.json describes the JSON endpoints. Needs `pip install fastapi uvicorn` (the extra `serve`).
"""

import argparse
import contextlib
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
        from ast_jax.inference.serve.server import listen, settings
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install fastapi uvicorn") from error

    from ast_jax.inference.predict import Tagger

    listening = listen(args.host, args.port)
    tagger = Tagger(args.model)
    limits = Limits(upload_bytes=round(args.upload_mb * 1e6), sound_s=args.sound_s)
    own = args.host in (LOOPBACK, "localhost")
    app = make_app(tagger, limits, hosts=(LOOPBACK, "localhost") if own else ("*",))
    if not own:
        print("warning: whoever reaches this address can use this server", file=sys.stderr)
    print(f"http://{args.host}:{listening.getsockname()[1]}   (Ctrl-C stops it)", flush=True)
    # uvicorn ends in order, then raises it again: this is how one stops it.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings(app, limits)).run(sockets=[listening])
