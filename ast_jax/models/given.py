"""An AST of features that exist already, however they were made (features/given.py)."""

import dataclasses
from typing import ClassVar

from ast_jax.features.front_end import FrontEnd
from ast_jax.features.given import Given
from ast_jax.models.ast import AST, ASTConfig


@dataclasses.dataclass(frozen=True)
class GivenConfig(ASTConfig):
    """An AST's, and what there is to say of its features, as `Given` has it."""

    sample_rate_hz: int = 16_000
    # samples from one frame to the next
    frame_shift: int = 160
    axes: str = "tf"
    log: str = "none"
    pad: float | None = None

    options: ClassVar[tuple[str, ...]] = (
        "num_mel_bins",
        "sample_rate_hz",
        "frame_shift",
        "axes",
        "log",
        "pad",
    )

    def __post_init__(self):
        # before a grid is laid on them
        _ = self.front_end
        super().__post_init__()

    @property
    def front_end(self) -> Given:
        """Not normalised. Raises InputError for fields that are none of features."""
        return Given(
            sample_rate_hz=self.sample_rate_hz,
            frame_length=self.frame_shift,
            frame_shift=self.frame_shift,
            num_mel_bins=self.num_mel_bins,
            axes=self.axes,
            log=self.log,
            pad=self.pad,
        )


class GivenAST(AST):
    """Features in, logits out."""

    Config: ClassVar[type] = GivenConfig
    config: GivenConfig

    @property
    def front_end(self) -> FrontEnd:
        return self.config.front_end
