"""The longer measurements: each module here is one command that prints and writes its figures."""
