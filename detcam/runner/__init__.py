"""Many pictures, one run folder: here, shared among processes, on Ray; interrupted and gone on with.

Whatever drives a run, `ExplainBatch` does the work; errors are rows, results are written as they come.
"""

from detcam.runner.batch import ExplainBatch, Job, Row, jobs_of
from detcam.runner.config import ExplainerConfig, LabelsConfig
from detcam.runner.loop import run
from detcam.runner.shards import WHOLE, Shard, shard_of_torchrun
from detcam.runner.state import count_failed, manifest_of, open_run, settle, unfinished

__all__ = [
    "WHOLE",
    "ExplainBatch",
    "ExplainerConfig",
    "Job",
    "LabelsConfig",
    "Row",
    "Shard",
    "count_failed",
    "jobs_of",
    "manifest_of",
    "open_run",
    "run",
    "settle",
    "shard_of_torchrun",
    "unfinished",
]
