"""Sample: a small set of real encoded videos with an index, so that a fresh clone has data."""

import functools
from pathlib import Path

import polars as pl

from mlops.files import atomic
from mlops.inputs import StageInputs
from mlops.params import section_as
from mlops.processes.progress import track
from mlops.recorded.foreign import replacing_directory
from mlops.stage import run_stage
from mlops.workers.pool import Executor, map_tasks
from stages.params import read_params
from stages.paths import SAMPLE
from video.synthesis.files import write_video
from video.synthesis.plan import SampleRecipe, index_row, plan_sample


def main(inputs: StageInputs) -> None:
    params = read_params()
    if not Path(params.data.index).is_relative_to(SAMPLE):
        SAMPLE.mkdir(parents=True, exist_ok=True)  # which DVC expects
        print(f"sample: not needed for {params.data.index}")
        return
    plan = plan_sample(params.seed, section_as(params.sample, SampleRecipe))
    with replacing_directory(SAMPLE) as directory:
        executor = Executor(executor="processes", workers=params.runtime.workers)
        write = functools.partial(write_video, root=directory)
        written = map_tasks(write, plan, executor)
        for _ in track(written, total=len(plan), task="sample"):
            pass
        rows = pl.DataFrame([index_row(planned) for planned in plan])
        atomic.write_text(directory / "index.csv", rows.write_csv())
        inputs.check()
    print(f"sample: {len(plan)} rows written to {SAMPLE / 'index.csv'}")


if __name__ == "__main__":
    run_stage("sample", main)
