"""OpenVINO; its files are data."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.runtimes.formats import Call, Format, Programs, import_runtime, loading
from shortcut_policy.runtimes.graph import NOISE
from shortcut_policy.runtimes.onnx_format import FILE as ONNX_FILE
from shortcut_policy.runtimes.onnx_format import OnnxFormat

FILE = "policy.xml"
#: OpenVINO computes in bfloat16 where the processor can, unless it is told otherwise (2026.4).
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
#: Matrices with fewer columns stay float32: unpacking them takes longer than reading them.
FEWEST_COLUMNS = 64


class OpenVinoFormat(Format):
    """``policy.xml`` and ``policy.bin``, made from the ONNX graph.

    Batches of one row run in a graph of that shape, which is faster than one of any shape.
    """

    precisions = ("fp32", "bf16", "int8")
    packages = ("openvino",)

    def write(self, programs: Programs, folder: Path, precision: str) -> None:
        """Weights stay float32 but for int8; bf16 is what the runtime is asked to compute in."""
        openvino: Any = import_runtime("openvino")
        with tempfile.TemporaryDirectory() as temporary:
            OnnxFormat().write(programs, Path(temporary), "fp32")
            # Not convert_model, which reports its use to OpenVINO's makers unless one opted out (2026.4).
            model = openvino.Core().read_model(str(Path(temporary, ONNX_FILE)))
            # What t and d decide alone; weights that are multiplied there must not be rounded, either.
            passes: Any = import_runtime("openvino.passes")
            manager = passes.Manager()
            manager.register_pass(passes.ConstantFolding())
            manager.run_passes(model)
            if precision == "int8":
                _round_weights(openvino.opset13, model)
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
            single = compile_for(1)
        # One row is what a robot asks for: its inputs and outputs have their places once and for all.
        places = {name: single.get_tensor(name).data for name in (*names, NOISE)}
        found = [single.get_output_tensor(i).data for i in range(2)]
        many: list[Any] = []

        def call(obs: Mapping[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
            feed = {**obs, NOISE: noise}
            if len(noise) == 1:
                for name, place in places.items():
                    place[...] = feed[name].numpy()
                single.infer()
                action, chunk = (torch.from_numpy(output.copy()) for output in found)
                return action, chunk
            if not many:
                many.append(compile_for(None))
            results = many[0].infer({name: feed[name].numpy() for name in places}, share_inputs=True)
            return torch.from_numpy(results[0]), torch.from_numpy(results[1])

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


def _round_weights(opset: Any, model: Any) -> None:
    """Matrices as bytes, each row with a scale of its own; inputs and sums stay float32.

    Weights are what limits a small network: a quarter of the bytes are read. NNCF does the same
    (``compress_weights`` with INT8_SYM, 3.4.0), and brings 60 MB of packages.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        transposed = node.get_attributes()["transpose_b"]
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2:
            continue
        weight = constant.data if transposed else constant.data.T
        if weight.shape[1] < FEWEST_COLUMNS:
            continue
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rounded = opset.constant(np.round(weight / scale).astype(np.int8))
        matrix = opset.multiply(opset.convert(rounded, "f32"), opset.constant(scale.astype(np.float32)))
        product = opset.matmul(node.input_value(0), matrix, False, True)
        for user in node.output(0).get_target_inputs():
            user.replace_source_output(product.output(0))
    model.validate_nodes_and_infer_types()
