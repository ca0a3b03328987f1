"""`python -m ast_jax COMMAND ...`: one line a command; `python -m ast_jax COMMAND --help` says more."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ast_jax.errors import InputError
from ast_jax.main import keep_compiled_programs, keep_stdout_for_answers, run


def main() -> None:
    """What the installed program `ast_jax` runs too."""
    prog = "ast_jax" if Path(sys.argv[0]).stem == "ast_jax" else "python -m ast_jax"
    keep_compiled_programs()
    keep_stdout_for_answers()
    run(partial(command, prog=prog), sys.argv[1:])


def command(argv: Sequence[str], *, prog: str) -> None:
    """The command that the first word names, or the list of them. Raises InputError where it names none."""
    # Imported here, so that Ctrl-C finds `run` around it.
    import difflib

    from ast_jax.commands import COMMANDS, invoke

    name, rest = (argv[0] if argv else "help"), argv[1:]
    if name in COMMANDS:
        invoke(name, rest, prog=prog)
    elif name in ("help", "-h", "--help"):
        print(f"{prog} COMMAND ...      (`{prog} COMMAND --help` says more)\n")
        print("\n".join(f"  {name:<11} {line}" for name, (_, line) in COMMANDS.items()))
    elif name == "--version":
        print(f"ast_jax {sys.modules['ast_jax'].__version__}")
    else:
        close = difflib.get_close_matches(name, COMMANDS)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {name!r}: {hint}")


if __name__ == "__main__":
    main()
