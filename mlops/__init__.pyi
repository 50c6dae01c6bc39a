from mlops.config import RunConfig as RunConfig
from mlops.pipeline import build_mlops_pipeline as build_mlops_pipeline
from mlops.run.directory import create_run_directory as create_run_directory
from mlops.tracker import ExperimentTracker as ExperimentTracker
