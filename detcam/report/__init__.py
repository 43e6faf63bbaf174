"""A run folder read back, and made into pages that any browser opens, or into figures for papers.

What `detcam explain` wrote is read and nothing else, so a run can be reported on at any time.
"""

from detcam.report.errors import ErrorSummary, RankedError, write_errors
from detcam.report.figures import FigureOptions, write_figure
from detcam.report.reading import StoredBox, StoredExplanation, StoredRun, read_explanation, read_run
from detcam.report.restoring import restored
from detcam.report.run import ReportRow, write_report

__all__ = [
    "ErrorSummary",
    "FigureOptions",
    "RankedError",
    "ReportRow",
    "StoredBox",
    "StoredExplanation",
    "StoredRun",
    "read_explanation",
    "read_run",
    "restored",
    "write_errors",
    "write_figure",
    "write_report",
]
