"""Student, teachers, training and validation images, held against each other before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from recipes.faces import Embedder, FoundInput, Judge, Verdict, find_placement, input_preset, item_image
from recipes.faces.embedding.signature import read_signature
from recipes.faces.judging.placing import judged_placement, judges_faces
from recipes.faces.judging.reading import Judged, read_judges
from recipes.faces.judging.wanted import in_short, input_warning, try_inputs
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.teachers import OpenedTeacher
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError, check_import, fingerprint

_SPOILS = ": training a model under another input than its own spoils it"
_DRAWN, _HELD = 500, 1000  # training and validation images that are held against each other
_BY_CHANCE = (
    0.02  # of the training images, those that may stand in a validation set: large sets have some twice
)
CHECKED = 300  # examples on which inputs and teachers are tried before training


def judges_of(val: Judged | Sequence[Judged] | None, config: TSMRConfig) -> tuple[Judge, ...]:
    """Read the judges of ``val``; the first decides as ``config`` says.

    Raises:
        InputError: one cannot be read, or there is none to take what ``config`` lets decide.
    """
    judges = read_judges(val)
    if config.decides is None:
        return judges
    if not judges:
        raise InputError(f"decides={config.decides!r} is a figure of val (--val), which is not given")
    return (judges[0].decided_by(config.decides), *judges[1:])


def taught(judges: Sequence[Judge], teacher: OpenedTeacher) -> tuple[Judge, ...]:
    """Give the judges, who know what ``teacher`` says of their data."""
    embed = teacher.embed
    return tuple(judge.with_teacher(embed.model, embed.preset, embed.embedding) for judge in judges)


def require_fit(model: nn.Module, views: Views, judges: Sequence[Judge], config: TSMRConfig) -> None:
    """Raise InputError where the student's file takes other images than there are, those of a judge differ in size, or
    the choices make no sense for them.

    Teachers are not asked: where a file fixes another size, the images are scaled for it.
    """
    preset = input_preset(config.student_input)
    training = preset.prepared_shape(views.shape, views.pixels)
    shown = [shown_images(judge, 1) for judge in judges if judge.images(1)]
    judged = [preset.prepared_shape(images.shape[1:], images.dtype == torch.uint8) for images in shown]
    signature = read_signature(model)
    if signature is not None:
        signature.require_images("the student", ("float32", "float16", "bfloat16"))
        signature.require_size("the student", training, "the training images are")
        for shape in judged:
            signature.require_size("the student", shape, "the validation images are")
    for shape in judged:
        if shape != training:
            raise InputError(
                f"the training images are {_size(training)} and the validation images {_size(shape)}: align the faces "
                "of both alike"
            )
    if not views.pixels:
        _require_normalised(config)


def _size(shape: torch.Size) -> str:
    channels = "" if shape[0] == 3 else " of one channel"
    return f"{shape[1]} x {shape[2]} pixels (height x width){channels}"


def _require_normalised(config: TSMRConfig) -> None:
    """Raise InputError where a choice is about pixels of 0..255, and the images are normalised already."""
    changes = [name for name in ("crop", "colour", "occlusion") if getattr(config.augment, name)]
    if changes:
        raise InputError(
            f"augment={changes[0]} is made of black, light or noise in pixels of 0..255, and the training images are "
            "floating point, already normalised: give uint8, or leave it out (flip, affine and low_resolution work)"
        )
    attacks = [name for name in config.losses if "perturbed" in LOSSES[name].needs]
    if attacks:
        raise InputError(
            f"the loss {attacks[0]!r} moves pixels of 0..255 by attack.radius, and the training images are floating "
            "point, already normalised: give uint8, or leave it out"
        )


def tell_input(views: Views) -> None:
    """Say in one line that presets are not applied, where the images are normalised already."""
    if not views.pixels:
        low, high = torch.aminmax(views[0, False][0])
        hint = "; are they pixels? Then give uint8" if low >= 0 and high > 16 else ""
        LOGGER.warning(
            f"the training images are floating point ({low:.3g} to {high:.3g} in image 0): they are taken as already "
            f"normalised, and input presets are not applied to them{hint}"
        )


def score_teachers(teachers: Sequence[OpenedTeacher], judge: Judge) -> tuple[Verdict, ...]:
    """Return what ``judge`` says of each teacher, once ``CHECKED`` of its examples speak for it.

    Raises:
        InputError: one of them does no better than chance.
    """
    few = judge.sample(CHECKED)
    verdicts = []
    for teacher in teachers:
        asked = (teacher.embed.model, teacher.embed.preset, teacher.embed.embedding)
        first = few.judge(*asked)
        if first.at_chance():
            better = _better_input_of(teacher, judge)
            raise InputError(
                f"{teacher.name} scores at chance on the validation set ({in_short(first)}, input "
                f"{teacher.embed.preset.name!r}): it is no teacher for these images, or the preset is wrong"
                f"{'' if better is None else f': {better}'}"
            )
        verdicts.append(first if few is judge else judge.judge(*asked))
    return tuple(verdicts)


def warn_of_teachers(
    teachers: Sequence[OpenedTeacher], judge: Judge, before: Verdict, scores: Sequence[Verdict]
) -> None:
    """Say so, before hours of training, where a teacher is not shown to be better than the student as it is."""
    for teacher, score in zip(teachers, scores, strict=True):
        found = judge.compare(before, score).deciding
        risen = score.deciding.goodness > before.deciding.goodness
        if found.significant() == "better" or (found.chance is None and risen):
            continue
        ends = "" if found.interval is None else " to ".join(map(before.deciding.change, found.interval))
        LOGGER.warning(
            f"{teacher.name} is {'worse' if found.significant() else 'not shown to be better'} than the "
            f"student: {before.decides} {score.deciding.shown()} against {before.deciding.shown()}"
            f"{ends and f' (difference {ends}, 95 %)'}; {before.subject}: what it says can hardly make the student "
            "better. Take a stronger teacher, or people (--val-people) who can tell the two apart"
        )


def warn_of_input(found: FoundInput | None, asked: str) -> None:
    """Say so, loudly, where the student does better with another input than the one ``asked`` for."""
    line = input_warning("the student", found, asked)
    if line is not None:
        LOGGER.warning(f"{line}{_SPOILS}")


def warn_of_teacher_inputs(teachers: Sequence[OpenedTeacher], judge: Judge) -> None:
    """Say so as loudly where a teacher does better with another input than the one asked for."""
    for teacher in teachers:
        line = _better_input_of(teacher, judge)
        if line is not None:
            LOGGER.warning(f"{line}: what it says under another input than its own is worse")


def warn_of_placement(student: Embedder, views: Views, judges: Sequence[Judge]) -> None:
    """Say so where faces lie elsewhere in the images than the student expects them: it would learn their offset."""
    if not all(map(judges_faces, judges)):
        return
    found = {"the training images": find_placement(student, views.images)}  # type: ignore[arg-type]
    found |= {f"validation set {i}": judged_placement(student, judge) for i, judge in enumerate(judges, 1)}
    for name, placement in found.items():
        if placement is not None and not placement.aligned:
            LOGGER.warning(f"{name}: {placement}")


def warn_of_overlap(views: Views, judges: Sequence[Judge]) -> None:
    """Say so where images that are trained on judge too: what was learnt by heart looks like a better net."""
    places = torch.linspace(0, len(views) - 1, min(_DRAWN, len(views))).long().tolist()
    drawn = {fingerprint(views[place, False][0]) for place in places}
    for number, judge in enumerate(judges, 1):
        known = {fingerprint(item_image(image, "a validation image")) for image in judge.images(_HELD)}
        shared = len(drawn & known)
        if shared > _BY_CHANCE * len(drawn):
            LOGGER.warning(
                f"validation set {number}: {shared:,} of {len(drawn):,} training images that were looked at are in it "
                "too: its figures show what was learnt by heart, and not what the net does on other images; keep the "
                "two apart"
            )


def _better_input_of(teacher: OpenedTeacher, judge: Judge) -> str | None:
    embed = teacher.embed
    found = try_inputs(embed.model, judge, embed.preset, embed.embedding)
    return input_warning(teacher.name, found, embed.preset.name)


def warn_of_import(model: nn.Module, views: Views, preset: str) -> None:
    """Hold a student that came from ONNX against its file on a few of the images, or warn of why that cannot be.

    Raises VerificationError where the two differ by more than rounding.
    """
    if isinstance(model, fx.GraphModule) and "onnx" in model.meta:
        note = check_import(model, input_preset(preset).prepare(views.first(3)))
        if note is not None:
            LOGGER.warning(note)


def shown_images(judge: Judge, count: int) -> Tensor:
    """Return the first images of a judge, at most ``count``: ``[N, C, H, W]``."""
    return torch.stack([item_image(image, "a validation image") for image in judge.images(count)])
