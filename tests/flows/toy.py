"""The flow that the tests run over a toy line."""

from pathlib import Path

from prefect import flow

from flows import dag, train


@flow(name="toy", persist_result=False)
def reproduce(folder: Path, jobs: int = 0) -> dict[str, str]:
    line = dag.Line(folder, jobs)
    train.reproduce(line)
    return line.outcome
