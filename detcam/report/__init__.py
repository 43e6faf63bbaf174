"""A run folder as pages that any browser opens: a page a picture, and an index of many.

`write_report` reads what `detcam explain` wrote and nothing else, so a run can be reported on at any time.
"""

from detcam.report.errors import ErrorSummary, RankedError, write_errors
from detcam.report.reading import StoredBox, StoredExplanation, StoredRun, read_explanation, read_run
from detcam.report.run import ReportRow, write_report

__all__ = [
    "ErrorSummary",
    "RankedError",
    "ReportRow",
    "StoredBox",
    "StoredExplanation",
    "StoredRun",
    "read_explanation",
    "read_run",
    "write_errors",
    "write_report",
]
