"""OpenVINO; its files are data."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shortcut_policy.runtimes.formats import Call, Format, Programs, import_runtime, loading
from shortcut_policy.runtimes.graph import NOISE
from shortcut_policy.runtimes.onnx_format import FILE as ONNX_FILE
from shortcut_policy.runtimes.onnx_format import OnnxFormat

FILE = "policy.xml"
#: OpenVINO computes in bfloat16 where the processor can, unless it is told otherwise (2026.4).
HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoFormat(Format):
    """``policy.xml`` and ``policy.bin``, made from the ONNX graph.

    Batches of one row run in a graph of that shape, which is faster than one of any shape.
    """

    precisions = ("fp32", "bf16")
    packages = ("openvino",)

    def write(self, programs: Programs, folder: Path, precision: str) -> None:
        """Weights stay float32: the precision is what the runtime is asked to compute in."""
        openvino: Any = import_runtime("openvino")
        with tempfile.TemporaryDirectory() as temporary:
            OnnxFormat().write(programs, Path(temporary), "fp32")
            model = openvino.convert_model(str(Path(temporary, ONNX_FILE)))
            openvino.save_model(model, str(folder / FILE), compress_to_fp16=False)

    def load(self, folder: Path, names: tuple[str, ...], precision: str, threads: int) -> Call:
        """On the CPU."""
        openvino: Any = import_runtime("openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()

        def compile_for(rows: int | None) -> Any:
            model = core.read_model(str(folder / FILE))
            if rows is not None:
                shapes = {port.any_name: port.partial_shape for port in model.inputs}
                for shape in shapes.values():
                    shape[0] = rows
                model.reshape(shapes)
            return core.compile_model(model, "CPU", settings).create_infer_request()

        with loading(folder / FILE):
            requests = {1: compile_for(1)}

        def call(obs: Mapping[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
            rows = 1 if len(noise) == 1 else 0
            if rows not in requests:
                requests[rows] = compile_for(None)
            feed = {name: obs[name].numpy() for name in names}
            found = requests[rows].infer({**feed, NOISE: noise.numpy()}, share_inputs=True)
            return torch.from_numpy(found[0]), torch.from_numpy(found[1])

        return call

    @staticmethod
    def example() -> str:
        """With OpenVINO."""
        return (
            "import openvino\n"
            f'model = openvino.compile_model("{FILE}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})\n'
            'found = model({**obs, "noise": noise})\n'
            "action, chunk = found[0], found[1]\n"
        )
