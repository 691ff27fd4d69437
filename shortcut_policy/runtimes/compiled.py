"""What a policy has to do with runtimes: get compiled, load an export, act through it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from shortcut_policy.adaptive import Sample, Steps
from shortcut_policy.checkpoint import DESCRIPTION, building
from shortcut_policy.control import check_finite
from shortcut_policy.encoders.per_task import ClampedEncoder
from shortcut_policy.encoders.prefix import CommittedPrefix
from shortcut_policy.errors import InputError, one_line
from shortcut_policy.model import Model
from shortcut_policy.objectives.base import Generators
from shortcut_policy.paths import written_out
from shortcut_policy.runtimes.export import (
    Runtime,
    compile_graph,
    load_runtime,
    read_export,
    read_statistics,
)
from shortcut_policy.settings import check_number


class Compiled(Model):
    """Adds `compile` and `from_export` to a policy.

    Attributes:
        runtime: Computes the actions in place of the modules, which have no weights then.
    """

    runtime: Runtime | None = None
    _obs_clamp: float | None = None
    prefix: CommittedPrefix
    horizon: int
    action_dim: int
    cameras: frozenset[str]

    def compile(  # type: ignore[override]  # nn.Module.compile has another purpose
        self,
        runtime: str = "onnx",
        *,
        steps: int = 1,
        precision: str | None = None,
        guidance: float | None = None,
    ) -> Self:
        """This policy with its inference in a runtime, several times as fast on a CPU; it stays as it is.

        What comes back acts like this one with ``steps`` sampling steps: the same noise, the same actions up
        to rounding, which is checked before. To keep it on disk, see ``scripts/export.py``.

        Args:
            runtime: ``onnx``, ``openvino`` (the fastest), ``aoti`` (compiles for some minutes) or
                ``inductor``, as ``docs/fast_act.md`` compares them.
            steps: K, the only number of sampling steps that it takes.
            precision: ``fp32``; ``bf16`` but for ``onnx``; ``int8`` for ``openvino``.
            guidance: See `act`.

        Raises:
            InputError: The runtime is not installed, the policy cannot be made a graph, or its actions in the
                runtime differ.

        Example:
            >>> fast = load_policy("pretrained/pusht").compile("onnx")
            >>> fast.act(obs)
        """
        compiled = self._without_weights(self.spec, self.metadata)
        compiled.normalizer.load_state_dict(self.normalizer.state_dict())
        compiled.runtime = compile_graph(self, runtime, steps, precision, guidance)
        return compiled

    @property
    def obs_clamp(self) -> float | None:
        """Largest size of a number of the normalised observations, from 1 on; None for any.

        It can be set at any time, and is saved with the policy. In a graph it is what it was when that was
        made.

        Raises:
            InputError: It is no such number, or of a policy in a runtime.
        """
        return self._obs_clamp

    @obs_clamp.setter
    def obs_clamp(self, size: float | None) -> None:
        if size is not None:
            words = "at least 1, in normalised units, or null for none"
            check_number("obs_clamp", size, lambda number: number >= 1, words)
        if self.runtime is not None and size != self._obs_clamp:
            raise InputError(
                f"obs_clamp={self._obs_clamp} is part of the graph that this policy runs: set it to {size} "
                "in the policy that the graph is made of, and compile or export that"
            )
        self._obs_clamp = size
        if isinstance(self.encoder, ClampedEncoder):
            self.encoder.clamp = size
        if self.spec:
            self.spec = {**self.spec, "obs_clamp": size}

    @property
    def prefix_steps(self) -> int:
        """The most actions that `act` takes as a prefix: none in a runtime."""
        return self.prefix.steps if self.runtime is None else 0

    @property
    def device(self) -> torch.device:
        """Where the parameters are, or the runtime computes."""
        return super().device if self.runtime is None else torch.device("cpu")

    def run_compiled(
        self,
        obs: Mapping[str, Tensor],
        steps: Steps,
        generator: Generators,
        guidance: float | None,
        prefix: Tensor | None,
    ) -> Sample:
        """The chunks of `Policy.predict_with_cost`, from the runtime."""
        runtime = self.runtime
        assert runtime is not None
        if prefix is not None:
            raise InputError("exports take no prefix: act with the checkpoint itself, or leave it out")
        if steps != runtime.steps or guidance not in (None, runtime.guidance):
            raise InputError(
                f"this export takes steps={runtime.steps} and guidance={runtime.guidance} alone, not "
                f"steps={steps} and guidance={guidance}: give those, or export the policy again with these"
            )
        rows = len(next(iter(obs.values())))
        noise = self.noise(rows, (self.horizon, self.action_dim), generator)
        # A graph takes pictures as bytes; they hold whole numbers, whatever type they come in.
        exact = {name: x.round().to(torch.uint8) if name in self.cameras else x for name, x in obs.items()}
        _, chunk = runtime.call(exact, noise)
        check_finite(chunk, obs)
        cost = self.objective.network_evaluations(runtime.steps)
        return Sample(chunk, torch.full((rows,), cost), gap=None)

    @classmethod
    def from_export(
        cls, path: str | Path, device: str | torch.device = "cpu", trust: str | Sequence[str] | None = ()
    ) -> Self:
        """Load what ``scripts/export.py`` has written; see `load_policy`.

        Raises:
            InputError: A file is missing or damaged, the runtime is not installed, the device is not the
                CPU, or the format runs code and is not trusted.
        """
        if torch.device(device).type != "cpu":
            raise InputError(f"device={device}: the export {path} runs on the CPU; load the checkpoint there")
        manifest, description = read_export(path, trust)
        statistics = read_statistics(path)
        with building(written_out(path) / DESCRIPTION):
            policy = cls._without_weights(description["policy"], description["metadata"])
        try:
            policy.normalizer.load_state_dict(statistics)
        except RuntimeError as error:
            reason = one_line(error)
            raise InputError(
                f"{path}: the statistics do not fit the policy ({reason}); export it again"
            ) from error
        policy.runtime = load_runtime(path, manifest, policy)
        return policy

    @classmethod
    def _without_weights(cls, spec: Mapping[str, Any], metadata: Mapping[str, Any]) -> Self:
        """A policy for a runtime that has the weights: its own take no memory."""
        with torch.random.fork_rng():
            policy = cls.from_spec(spec).eval()
        policy.metadata = dict(metadata)
        for part in (policy.encoder, policy.backbone):
            part.to("meta")
        return policy
