"""Whatever a net's code reads, wherever that lies, is a part of the net."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from recipes.tsmr.targets.description import described
from recipes.tsmr.targets.identity import model_identity
from reparam_kit import fingerprint

# What stands before the class, with another number in the place of {}; and what its forward returns.
READ = {
    "tensor": ("S = torch.tensor({})", "x * S"),
    "array": ("import numpy as np\nS = np.array([{}.0])", "x * float(S[0])"),
    "numpy number": ("import numpy as np\nS = np.float32({})", "x * float(S)"),
    "dtype": ("S = [torch.float16, torch.float64, torch.float32][{} - 2]", "x.to(S)"),
    "range": ("S = range({}, 9)", "x * S[0]"),
    "path": ("from pathlib import Path\nS = Path('{}')", "x * int(S.name)"),
    "fraction": ("from fractions import Fraction\nS = Fraction({})", "x * float(S)"),
    "namespace": ("from types import SimpleNamespace\nS = SimpleNamespace(k={})", "x * S.k"),
    "proxy": ("from types import MappingProxyType\nS = MappingProxyType(dict(k={}))", "x * S['k']"),
    "dict of tensors": ("S = dict(k=torch.tensor({}))", "x * S['k']"),
    "dict of functions": ("def f(x): return x * {}\nS = dict(k=f)", "S['k'](x)"),
    "list of functions": ("S = [lambda x: x * {}]", "S[0](x)"),
    "object": ("class K: pass\nS = K()\nS.k = {}", "x * S.k"),
    "method": ("class K:\n    k = {}\n    def f(self, x): return x * self.k\nS = K().f", "S(x)"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass K:\n    k: int = {}\nS = K()", "x * S.k"),
    "module": ("S = nn.LeakyReLU(1 / {})", "S(x)"),
    "partial": ("import functools\ndef f(k, x): return x * k\nS = functools.partial(f, {})", "S(x)"),
    "cached function": ("import functools\n@functools.lru_cache\ndef f(): return {}", "x * f()"),
    "scripted function": ("@torch.jit.script\ndef f(x):\n    return x * {}", "f(x)"),
    "module's number": ("import helper", "x * helper.NUMBER"),
    "submodule's number": ("import pack.inner", "x * pack.inner.NUMBER"),
    "submodule's function": ("import pack.inner", "pack.inner.f(x)"),
    "import in a function": ("def f(x):\n    import helper\n    return x * helper.NUMBER", "f(x)"),
    "import from in a function": ("def f(x):\n    from helper import f as g\n    return g(x)", "f(x)"),
    "import of a submodule in a function": ("def f(x):\n    from pack import inner\n    return inner.f(x)", "f(x)"),
    "relative import in a function": ("import pack", "pack.relative(x)"),
}  # fmt: skip
NET = """
import torch
from torch import nn
{head}
class Net(nn.Module):
    def forward(self, x):
        return {result}
"""
OURS = ("net_of_a_user", "helper", "pack")


def write(folder: Path, head: str, result: str, number: int) -> None:
    (folder / "pack").mkdir(exist_ok=True)
    helper = f"NUMBER = {number}\ndef f(x): return x * NUMBER\n"
    (folder / "helper.py").write_text(helper)
    (folder / "pack" / "inner.py").write_text(helper)
    (folder / "pack" / "__init__.py").write_text(
        "def relative(x):\n    from .inner import f\n    return f(x)\n"
    )
    (folder / "net_of_a_user.py").write_text(NET.format(head=head.replace("{}", str(number)), result=result))


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    forget()


def identity_of(folder: Path, head: str, result: str, number: int) -> str:
    write(folder, head, result, number)
    forget()
    net: nn.Module = importlib.import_module("net_of_a_user").Net()
    net(torch.ones(2))  # as a run does before it asks
    return model_identity(net)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("read", READ)
def test_what_code_reads_is_a_part_of_a_net(read: str, folder: Path) -> None:
    two, three, again = (identity_of(folder, *READ[read], number) for number in (2, 3, 2))
    assert two != three
    assert two == again


# What is not the same in two processes, or need not be, and decides nothing of a net.
PASSING = {
    "logger": ("import logging\nS = logging.getLogger('x')", "S.debug('x') or x"),
    "lock": ("import threading\nS = threading.Lock()", "x if S.acquire(False) else x"),
    "file": ("import sys\nS = sys.stderr", "S.flush() or x"),
    "set": ("S = {'a', 'b', 'c'}", "x * len(S)"),
    "weak": ("import weakref\nclass K: pass\nk = K()\nS = weakref.ref(k)", "x if S() else -x"),
    "thread's own": ("import threading\nS = threading.local()", "x if S else x"),
}


def test_a_net_that_reads_what_passes_has_one_identity_in_every_process(tmp_path: Path) -> None:
    head = "\n".join(head.replace("S =", f"{name.replace(' ', '_').replace(chr(39), '')} =")
                     for name, (head, _) in PASSING.items())  # fmt: skip
    names = [name.replace(" ", "_").replace("'", "") for name in PASSING]
    write(tmp_path, head, f"x * len([{', '.join(names)}])", 1)
    code = (
        "import logging, sys; sys.argv[1] == '2' and logging.basicConfig(); "
        "import net_of_a_user; from recipes.tsmr.targets.identity import model_identity; "
        "print(model_identity(net_of_a_user.Net()))"
    )
    found = set()
    for seed in "12":
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
        run = subprocess.run([sys.executable, "-c", code, seed], capture_output=True, env=env, text=True)
        assert run.returncode == 0, run.stderr
        found.add(run.stdout)
    assert len(found) == 1


def containing_themselves(number: int) -> list[object]:
    rows: list[object] = [number]
    rows.append(rows)
    table: dict[object, object] = {"number": number}
    table["rows"] = [table, rows]
    keyed: dict[object, object] = {}
    keyed[KeyOf(keyed, number)] = number
    return [rows, table, keyed]


class KeyOf:
    def __init__(self, table: dict[object, object], number: int) -> None:
        self.table, self.number = table, number


@pytest.mark.parametrize("which", range(3))
def test_what_holds_itself_is_described(which: int) -> None:
    first, again, other = (fingerprint(described(containing_themselves(n)[which])) for n in (1, 1, 2))
    assert first == again != other


def test_code_that_pytest_has_changed_is_described_without_pytest() -> None:
    """An assertion reads pytest's own module, which leads to much of what is loaded."""

    def checked(value: int) -> int:
        assert value > 0, value
        return value

    assert len(repr(described(checked))) < 20_000
