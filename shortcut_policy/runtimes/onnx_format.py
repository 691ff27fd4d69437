"""ONNX, run by ONNX Runtime; its files are data."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shortcut_policy.runtimes.formats import Call, Format, Programs, import_runtime, loading, quiet
from shortcut_policy.runtimes.graph import CHUNK, NOISE

FILE = "policy.onnx"
#: Operations below which the exporter's patterns are looked for: in a graph of many steps that takes as long
#: as all the rest, and runtimes find most of them.
REWRITTEN = 1500


class OnnxFormat(Format):
    """``policy.onnx``: one file with the weights in it, for ONNX Runtime and whatever else reads ONNX."""

    packages = ("onnx", "onnxruntime")

    def write(self, programs: Programs, folder: Path, precision: str) -> None:
        """With the batch as the first axis of all inputs and outputs."""
        optimizer: Any = import_runtime("onnxscript.optimizer")
        program = programs.make(None)
        small = len(program.graph.nodes) < REWRITTEN
        with _exporting():
            graph = torch.onnx.export(
                program,
                dynamo=True,
                optimize=small,
                input_names=[*programs.names, NOISE],
                output_names=["action", CHUNK],
                verbose=False,
            )
            assert graph is not None
            if not small:
                optimizer.fold_constants(graph.model)
                optimizer.remove_unused_nodes(graph.model)
            for node in graph.model.graph.all_nodes():
                node.metadata_props.clear()  # where in the code it comes from, with paths of this machine
            graph.save(str(folder / FILE), external_data=False)

    def load(self, folder: Path, names: tuple[str, ...], precision: str, threads: int) -> Call:
        """On the CPU."""
        runtime: Any = import_runtime("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        with loading(folder / FILE):
            session = runtime.InferenceSession(
                str(folder / FILE), options, providers=["CPUExecutionProvider"]
            )

        def call(obs: Mapping[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
            feed = {name: obs[name].numpy() for name in names}
            action, chunk = session.run(None, {**feed, NOISE: noise.numpy()})
            return torch.from_numpy(action), torch.from_numpy(chunk)

        return call

    @staticmethod
    def example() -> str:
        """With ONNX Runtime."""
        return (
            "import onnxruntime\n"
            f'session = onnxruntime.InferenceSession("{FILE}", providers=["CPUExecutionProvider"])\n'
            'action, chunk = session.run(None, {**obs, "noise": noise})\n'
        )


@contextmanager
def _exporting() -> Iterator[None]:
    """Without the exporter's remarks on packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
