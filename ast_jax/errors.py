"""The one exception that is the user's to mend: its message is one line that says what was got, what was wanted, what to do."""


class InputError(ValueError):
    """Bad input. The command line prints `error: <message>` and exits with status 2; nothing is lost."""
