"""Each architecture in a fork of this process: what it breaks or uses up is its own."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection

from benchmarks.zoo.cases import Case
from benchmarks.zoo.judge import Verdict, judge

SECONDS = 1800
"""An architecture that takes longer has failed."""


def run(case: Case, limit: int | None) -> Verdict | None:
    """Judge one architecture in a fork of this process, which has everything imported."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_judge, args=(case, limit, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(SECONDS):
            verdict: Verdict | None = receiver.recv()
            return verdict
        return Verdict(case.title, faults=[f"no answer within {SECONDS} s"])
    except EOFError:
        process.join()
        return Verdict(case.title, faults=[f"its process ended with status {process.exitcode}"])
    finally:
        process.terminate()
        process.join()


def _judge(case: Case, limit: int | None, sender: Connection) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # exporters print whole graphs
        os.dup2(nowhere, stream)
    try:
        verdict = judge(case, limit)
    except Exception as error:  # one architecture must not end the run
        verdict = Verdict(
            case.title, faults=[f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"]
        )
    sender.send(verdict)
