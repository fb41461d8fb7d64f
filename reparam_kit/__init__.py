"""Better weights for a deployed CNN, without changing anything but its weights.

Names are imported on first use, so that ``import reparam_kit`` and ``reparam-kit --help`` stay quick.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from reparam_kit.errors import ExpressionError as ExpressionError
from reparam_kit.errors import InputError as InputError
from reparam_kit.errors import NothingToDoError as NothingToDoError
from reparam_kit.errors import ReparamError as ReparamError
from reparam_kit.errors import UnsafeFileError as UnsafeFileError
from reparam_kit.errors import UnsupportedError as UnsupportedError
from reparam_kit.errors import VerificationError as VerificationError
from reparam_kit.errors import first_line as first_line
from reparam_kit.errors import printable as printable
from reparam_kit.errors import suggestion as suggestion
from reparam_kit.extras import extra as extra
from reparam_kit.lazy import lazily as lazily

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library call prints nothing

if TYPE_CHECKING:
    from reparam_kit.algebra.passes import composed as composed
    from reparam_kit.atomic import atomic_file as atomic_file
    from reparam_kit.atomic import require_writable as require_writable
    from reparam_kit.baking import bake as bake
    from reparam_kit.cli.paths import OutputPath as OutputPath
    from reparam_kit.cli.paths import RootPath as RootPath
    from reparam_kit.devices import choose_device as choose_device
    from reparam_kit.devices import name_device as name_device
    from reparam_kit.digests import fingerprint as fingerprint
    from reparam_kit.exporting import export_onnx as export_onnx
    from reparam_kit.factories import is_factory as is_factory
    from reparam_kit.files import read_file as read_file
    from reparam_kit.files import require_file as require_file
    from reparam_kit.formats import load as load
    from reparam_kit.formats import save as save
    from reparam_kit.modes import evaluating as evaluating
    from reparam_kit.onnx.diff import diff as diff
    from reparam_kit.onnx.importer.trainable import train_only as train_only
    from reparam_kit.onnx.integers import IntegerCount as IntegerCount
    from reparam_kit.onnx.integers import count_integers as count_integers
    from reparam_kit.onnx.run import open_session as open_session
    from reparam_kit.onnx.run import read_inputs as read_inputs
    from reparam_kit.onnx.weights import onnx_fingerprint as onnx_fingerprint
    from reparam_kit.onnx.write_back import as_written as as_written
    from reparam_kit.outputs import Output as Output
    from reparam_kit.outputs import hold_apart as hold_apart
    from reparam_kit.planning import cost_ratio as cost_ratio
    from reparam_kit.planning import plan as plan
    from reparam_kit.registry import Registry as Registry
    from reparam_kit.registry import import_file as import_file
    from reparam_kit.registry import imported_files as imported_files
    from reparam_kit.restoration import restore_bn as restore_bn
    from reparam_kit.sites import inspect as inspect
    from reparam_kit.substitution import duplicate as duplicate
    from reparam_kit.surgery import expand as expand
    from reparam_kit.surgery import fold as fold
    from reparam_kit.verification import verify as verify
    from reparam_kit.verification.imported import check_import as check_import
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
    __all__ += ["__version__"]
