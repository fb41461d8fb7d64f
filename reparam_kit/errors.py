"""One family of errors. Each message says what was wrong, where, and what to do about it."""

from __future__ import annotations


class ReparamError(Exception):
    """Anything this package refuses to do. The command line prints it in one line and exits with ``exit_code``."""

    exit_code = 2


class InputError(ReparamError):
    """A file, a name or a value that the user gave cannot be used: missing, truncated, malformed, misspelt."""


class UnsafeFileError(InputError):
    """Reading the file would run code that it carries, and the user has not said that it may."""


class ExpressionError(InputError):
    """A block expression that does not parse, or does not fit the convolution it is applied to."""


class UnsupportedError(ReparamError):
    """Something well-formed that this package does not handle, such as an ONNX operator without an importer."""


class NothingToDoError(ReparamError):
    """The request was understood and leaves nothing to work on: a model without a convolution to expand."""

    exit_code = 3


class VerificationError(ReparamError):
    """Two things that had to be equal are not."""

    exit_code = 1
