"""A run in this process: reading, explaining and writing overlap.

While the network works on a batch, a thread decodes the next one and another writes the last. No more than a
batch ahead and a few pictures behind are in memory, however many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from detcam.explainer import check_count
from detcam.runner.batch import ExplainBatch, Job, ReadJob, Row


def run(work: ExplainBatch, jobs: Sequence[Job], *, batch: int = 1) -> Iterator[Row]:
    """Explain pictures one batch at a time, write their files and rows, and yield the rows in order.

    A picture that cannot be read or explained becomes a row with its error; the run goes on.

    Raises:
        InputError: `batch` is no count.
        OutputError: the folder cannot be written.
    """
    check_count("batch", batch)
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    unwritten = deque[Future[Row]]()
    try:
        for part in _ahead(work, reader, jobs, batch):
            for row in work.explain(part):
                unwritten.append(writer.submit(work.write, row))
            while len(unwritten) > batch:
                yield unwritten.popleft().result()
        while unwritten:
            yield unwritten.popleft().result()
    finally:  # what nobody waits for is not begun
        for pool in (reader, writer):
            pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    work: ExplainBatch, reader: ThreadPoolExecutor, jobs: Sequence[Job], batch: int
) -> Iterator[list[ReadJob]]:
    """Pictures of each batch, read while the batch before it is worked on."""
    unread = deque[Future[list[ReadJob]]]()
    for start in range(0, len(jobs), batch):
        unread.append(reader.submit(work.read, jobs[start : start + batch]))
        if len(unread) > 1:
            yield unread.popleft().result()
    while unread:
        yield unread.popleft().result()
