"""Everything that can be chosen about a run, in one frozen object that is stored with what the run gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, get_args

from recipes.faces import input_preset
from reparam_kit import InputError

Loss = Literal["cosine", "mse"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True)
class TSMRConfig:
    """The choices of a run.

    Attributes:
        block: what each convolution is expanded to, as in ``rk.expand``; None trains the net as it is, the
            control that any gain from a block has to be compared with.
        norm: what each branch passes before the sum, as in ``rk.expand``.
        student_input: input preset of the student (``recipes.faces.input_preset``). A wrong one fails nowhere
            and costs accuracy, so the command line has no default for it.
        teacher_input: input preset of the teacher; likewise.
        loss: "cosine" or "mse", see ``recipes.tsmr.losses``.
        epochs: passes over the images.
        batch_size: images a step. The images left over at the end of an epoch are not used in it.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of kernels; scales, biases, norms and PReLU slopes have none.
        warmup: part of all steps over which the rate rises linearly from 0; after it, it falls to 0 as a half
            cosine.
        clip: largest norm of the gradient of all parameters together.
        flip: show half of the images mirrored, each with the teacher's embedding of the mirrored image.
        seed: decides the start of the branches, the order of the images and which of them are mirrored.
        workers: processes that decode images; 0 decodes in the training process. Does not change the result.

    Raises:
        InputError: a value cannot be used.
    """

    VERSION: ClassVar[int] = 1

    block: str | None = "dbb"
    norm: Literal["scale", "batch", "none"] = "scale"
    student_input: str = "insightface"
    teacher_input: str = "insightface"
    loss: Loss = "cosine"
    epochs: int = 5
    batch_size: int = 64
    lr: float = 1e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 5.0
    flip: bool = True
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        input_preset(self.student_input)
        input_preset(self.teacher_input)
        if self.loss not in LOSSES:
            close = get_close_matches(self.loss, LOSSES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(LOSSES)}"
            raise InputError(f"loss={self.loss!r}: {hint}")
        for name, holds, rule in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("lr", self.lr > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "zero or positive"),
            ("warmup", 0 <= self.warmup < 1, "at least 0 and below 1"),
            ("clip", self.clip > 0, "positive"),
            ("workers", self.workers >= 0, "zero or positive"),
        ):
            if not holds:
                raise InputError(f"{name}={getattr(self, name)} must be {rule}")

    def to_json(self) -> dict[str, Any]:
        """Every choice by name, with the version of this class as ``version``."""
        return {"version": self.VERSION, **asdict(self)}
