from mlops.pipeline import build_mlops_pipeline as build_mlops_pipeline
from mlops.run_config import RunConfig as RunConfig
from mlops.runs import create_run_directory as create_run_directory
from mlops.tracker import ExperimentTracker as ExperimentTracker
