"""What a student is trained on: images, what the teachers say of them, and who is on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.faces.images.items import Items
from recipes.faces.sets.faces import Faces, read_labels
from recipes.tsmr.targets.partners import Partners
from recipes.tsmr.targets.showing import Showing, Shown
from recipes.tsmr.targets.targets import Targets
from recipes.tsmr.targets.views import Images, Part, Views

_CHUNK = 65536  # images read at once where all are


@dataclass(frozen=True)
class Examples:
    """The training images with all that is known of them.

    Attributes:
        showing: the images, and which views of them are shown.
        targets: the teachers' embeddings.
        labels: identity of each image, int64 ``[N]``; negative where it is not known. None unless a loss needs
            them.
        old: embeddings of the model as it was deployed; None unless a loss needs them.
        partners: pairs to show together; None unless a loss asks for them.
    """

    showing: Showing
    targets: Targets
    labels: npt.NDArray[np.int64] | None = None
    old: Targets | None = None
    partners: Partners | None = None

    @property
    def views(self) -> Views:
        """The images."""
        return self.showing.views

    @property
    def identities(self) -> int:
        """How many people; 0 where no loss needs to know."""
        return 0 if self.labels is None else int(self.labels.max(initial=-1)) + 1

    def known(self, shown: Shown, *others: Shown) -> dict[str, Tensor]:
        """Return what is known of images as shown: "index" ``[N]``, "teacher" ``[N, T]``, where a loss needs
        them "labels" ``[N]`` and "old" ``[N, D]``, and of other views of the same images "second" ``[N, 3, H,
        W]`` and "second_teacher" ``[N, T]``.
        """
        known = {"index": shown.number, "teacher": self.targets.rows(shown)}
        if self.labels is not None:
            labels = torch.from_numpy(self.labels[shown.number.numpy()])
            known["labels"] = labels.masked_fill(shown.blended, -1)
        if self.old is not None:
            known["old"] = self.old.rows(shown)
        for other in others:
            known |= {"second": other.images, "second_teacher": self.targets.rows(other)}
        return known

    def identity_means(self, of: Literal["old", "teacher"]) -> Tensor:
        """Mean direction of the embeddings of each person's images: unit rows ``[C, D]`` or ``[C, T]``.

        0 for a person without images.
        """
        targets = self.targets if of == "teacher" else self.old
        assert self.labels is not None
        assert targets is not None
        means = torch.zeros(self.identities, targets.size)
        for at in np.array_split(np.flatnonzero(self.labels >= 0), -(-len(self.labels) // _CHUNK)):
            means.index_add_(0, torch.from_numpy(self.labels[at]), targets.originals(at))
        return F.normalize(means, dim=1)


def identity_labels(images: Images) -> npt.NDArray[np.int64]:
    """Identity of every image, int64 ``[N]``: as the labels say, and of a part its own."""
    return images.labels if isinstance(images, Part) else read_labels(cast("Items", images))


def unnamed_logits(images: Images, logits: int) -> str:
    """Say why the labels of ``images`` do not name ``logits`` logits; empty where they may.

    A set that is read from files numbers the classes that it shows, in ascending order: where it does not show all,
    those behind one that is missing have other numbers than their logits.
    """
    if isinstance(images, Faces) and 0 < images.num_identities < logits:
        return (
            f"the images show {images.num_identities} classes and the nets give {logits} logits, so which logit is "
            "whose cannot be told: give images of every class, or in Python a dataset whose labels are the numbers of "
            "the logits"
        )
    return ""
