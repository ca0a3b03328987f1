"""A local page that tags sounds: `python -m ast_jax serve --model=RUN`. Needs the extra `serve`."""
