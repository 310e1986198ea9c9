"""The log of a training run: `log.csv`, TensorBoard events and Prometheus metrics, updated during the run."""

import csv
import io
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from cluster import metrics as telemetry
from cluster import storage

Row = dict[str, float | int | None]


class TrainingLog:
    """Writes the rows of a run below an output folder: `log.csv` at each update, `tensorboard/` beside it.

    A local `tensorboard/` is updated during the run; in object storage it appears at the end, since events cannot be
    appended there. Use it as a context manager.

    Args:
        output_uri: the job's output folder.
        index: the column that numbers the rows; TensorBoard's horizontal axis.
        stage: name of the stage in the metrics.
        clips: number of clips that are processed in each row's `seconds`; None if unknown.
    """

    def __init__(self, output_uri: str, index: str, stage: str, clips: int | None = None) -> None:
        self.output_uri, self.index, self.stage, self.clips = output_uri, index, stage, clips
        self._scratch = tempfile.TemporaryDirectory(prefix="soundstorm-log-")
        self._events_uri = storage.join(output_uri, "tensorboard")
        self._is_remote = storage.is_remote(output_uri)
        self._folder = Path(self._scratch.name) if self._is_remote else Path(self._events_uri)
        self._writer: SummaryWriter | None = None
        self._written = -1

    def __enter__(self) -> Self:
        return self

    def update(self, rows: Sequence[Row]) -> None:
        """Update the log to `rows`, all rows of the run so far; the columns are the keys of the last one."""
        if not rows:
            return
        storage.write_bytes(storage.join(self.output_uri, "log.csv"), _to_csv(rows))
        if self._writer is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._writer = SummaryWriter(str(self._folder))
        for row in rows:
            position = int(row[self.index] or 0)
            if position <= self._written:
                continue
            for name, value in row.items():
                if name != self.index and value is not None:
                    self._writer.add_scalar(name, value, position)
            self._written = position
        self._writer.flush()
        self._publish(rows[-1])

    def _publish(self, row: Row) -> None:
        """Publish the newest row as Prometheus metrics."""
        if self.clips is not None and row["seconds"]:
            row = row | {"clips_per_s": self.clips / row["seconds"]}
        for name, value in row.items():
            if value is not None and math.isfinite(value):
                telemetry.set_gauge(self.stage, "training", value, column=name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            telemetry.clear(self.stage)
            if self._is_remote and error is None:
                storage.delete(self._events_uri)
                storage.copy_from_local(self._folder, self._events_uri)
        self._scratch.cleanup()


def _to_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: _rounded(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _rounded(value: Any) -> Any:
    """Round to eight significant digits."""
    return float(f"{value:.8g}") if isinstance(value, float) else value
