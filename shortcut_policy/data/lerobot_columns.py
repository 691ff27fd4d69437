"""The tables of a LeRobot dataset that is written: Parquet, an episode after the other."""

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shortcut_policy.data.lerobot_meta import import_parquet

#: Files in a folder, and bytes after which a new one is begun.
CHUNK, FILE_BYTES = 1000, 100 * 2**20
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


class StepTables:
    """The tables of the steps, one episode after the other."""

    def __init__(self, output: Path) -> None:
        import pyarrow as pa

        self._pa, self._parquet = pa, import_parquet()
        self._output, self._file = output, -1
        self._writer: Any = None
        self._sink: Any = None
        self.rows = 0

    def add(self, columns: Mapping[str, np.ndarray], images: Collection[str]) -> dict[str, Any]:
        """Append an episode, name -> (T, ...); returns where it is.

        Args:
            columns: (T, 1) of a number a step; (T, H, W, 3) uint8 of images.
            images: Names of the images.
        """
        arrays = {
            name: self._images(rows) if name in images else self._numbers(rows)
            for name, rows in columns.items()
        }
        table = self._pa.table(arrays)
        if self._writer is None or self._sink.tell() > FILE_BYTES:
            self._close()
            self._file += 1
            path = self._output / DATA_PATH.format(**file_numbers(self._file))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = path.open("wb")
            self._writer = self._parquet.ParquetWriter(self._sink, table.schema, compression="snappy")
        self._writer.write_table(table)
        first, self.rows = self.rows, self.rows + len(table)
        place = {f"data/{name}": value for name, value in file_numbers(self._file).items()}
        return {"length": len(table), **place, "dataset_from_index": first, "dataset_to_index": self.rows}

    def __enter__(self) -> "StepTables":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._close()
        elif self._writer is not None:
            # What is there is of no use, and its end could not be written where the disk is full: without
            # this the writer would try, when it is collected.
            self._writer.is_open = False
            self._sink.close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._sink.close()

    def _numbers(self, rows: np.ndarray) -> Any:
        # Arrow takes numbers of this machine's byte order alone.
        array = self._pa.array(rows.reshape(-1).astype(rows.dtype.newbyteorder("="), copy=False))
        if rows.ndim == 2 and rows.shape[1] == 1:
            return array
        for size in reversed(rows.shape[2:]):
            offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
            array = self._pa.ListArray.from_arrays(offsets, array)
        if rows.ndim == 2:
            return self._pa.FixedSizeListArray.from_arrays(array, rows.shape[1])
        return self._pa.ListArray.from_arrays(
            np.arange(0, len(array) + 1, rows.shape[1], dtype=np.int32), array
        )

    def _images(self, rows: np.ndarray) -> Any:
        kind = self._pa.struct({"bytes": self._pa.binary(), "path": self._pa.string()})
        return self._pa.array([{"bytes": _png(image), "path": None} for image in rows], kind)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def file_numbers(file: int) -> dict[str, int]:
    """Where LeRobot puts the file of a number."""
    return {"chunk_index": file // CHUNK, "file_index": file % CHUNK}
