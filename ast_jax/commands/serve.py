"""`serve`: a page of this machine's own, on which sounds are dropped and their tags shown."""

import sys
from typing import Annotated

from ast_jax import system
from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated, tagger
from ast_jax.errors import InputError
from ast_jax.features.front_end import require_sound
from ast_jax.inference.serve.limits import Limits

LOOPBACK = "127.0.0.1"


def serve(
    *,
    model: Annotated[list[str], Flag("a run or checkpoint; repeat it for an ensemble")],
    stated: Stated = AS_IT_IS,
    port: Annotated[int, Flag("0: any free one", least=0, most=65535)] = 8000,
    host: Annotated[str, Flag("0.0.0.0 lets other machines in: there is no password")] = LOOPBACK,
    upload_mb: Annotated[float, Flag("largest upload", above=0)] = Limits.upload_bytes / 1e6,
    sound_s: Annotated[float, Flag("longest sound", above=0)] = Limits.sound_s,
) -> None:
    """Serves a page, to this machine alone, on which sounds are dropped or recorded and their tags shown.

      python -m ast_jax serve --model=runs/quickstart [--port=8000]
      curl --data-binary @sound.wav http://127.0.0.1:8000/api/tags?top=3

    Until Ctrl-C. Nothing sent is kept; nothing is loaded from anywhere else. /openapi.json describes the JSON
    endpoints. Needs `pip install fastapi uvicorn` (the extra `serve`).
    """
    if not system.POSIX:
        raise InputError(
            "serve decodes what is sent in processes with limits, which this system lacks: on Windows start "
            "it in WSL"
        )
    try:
        from ast_jax.inference.serve.app import make_app
        from ast_jax.inference.serve.server import listen, run
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install fastapi uvicorn") from error

    with listen(host, port) as listening:
        models = tagger(model, stated)
        require_sound(models.models[0].front_end, "serve")
        limits = Limits(upload_bytes=round(upload_mb * 1e6), sound_s=sound_s)
        own = host in (LOOPBACK, "localhost")
        app = make_app(models, limits, hosts=(LOOPBACK, "localhost") if own else ("*",))
        if not own:
            print("warning: whoever reaches this address can use this server", file=sys.stderr)
        run(app, limits, host, listening)
