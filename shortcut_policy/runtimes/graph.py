"""A policy's inference as one graph: normaliser, encoder, sampling steps, un-normaliser, executed slice."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from shortcut_policy.adaptive import check_steps
from shortcut_policy.data import Normalizer
from shortcut_policy.data.fields import ACTION
from shortcut_policy.errors import InputError, one_line
from shortcut_policy.objectives import Objective
from shortcut_policy.runtimes.formats import quiet

NOISE, CHUNK = "noise", "chunk"
#: Operations whose results no input of the graph decides.
RANDOM = ("bernoulli", "normal", "rand", "randint", "randn", "randperm")


class Acting(Protocol):
    """What of a policy makes its graph."""

    obs_shapes: dict[str, tuple[int, ...]]
    cameras: frozenset[str]
    n_obs_steps: int
    horizon: int
    action_dim: int
    objective: Objective
    backbone: nn.Module
    encoder: nn.Module
    normalizer: Normalizer
    training: bool

    def encode(self, given: Mapping[str, Tensor]) -> Tensor:
        """Observations to the condition."""
        ...

    def executed(self, chunk: Tensor) -> Tensor:
        """The part of a chunk that is executed."""
        ...


class ActGraph(nn.Module):
    """``forward(obs, noise)`` is what `Policy.predict` computes, with the noise as an input.

    Args:
        policy: A trained one; its modules are shared, not copied.
        steps: K, sampling steps.
        guidance: See `Policy.act`.
    """

    def __init__(self, policy: Acting, steps: int, guidance: float | None = None) -> None:
        super().__init__()
        self.policy, self.steps, self.guidance = policy, steps, guidance

    def forward(self, obs: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """The executed actions and the whole chunk, in environment units.

        Args:
            obs: name -> (B, n_obs_steps, *shape) in environment units, cameras as bytes.
            noise: (B, horizon, A), standard normal.

        Returns:
            (B, n_action_steps, A) and (B, horizon, A), float32.
        """
        policy = self.policy
        cond = policy.objective.sampling_cond(policy.encode(obs), self.guidance)
        x = policy.objective.sample(policy.backbone, noise, cond, self.steps)
        chunk = policy.normalizer.unnormalize(ACTION, x).float()
        return policy.executed(chunk), chunk


def make_program(policy: Acting, steps: int, guidance: float | None, rows: int | None) -> ExportedProgram:
    """The graph as ``torch.export`` writes it.

    Args:
        policy: A trained one, in float32.
        steps: K, sampling steps.
        guidance: See `Policy.act`.
        rows: Of every batch; None for batches of any size.

    Raises:
        InputError: The objective does not sample so, draws random numbers between its steps, or a part of the
            policy does what a graph cannot hold.
    """
    count = check_steps(policy.objective, steps)
    if not isinstance(count, int):
        raise InputError(f"steps={steps} is decided anew for each observation: export a number of steps")
    # A row of many, whose size torch.export does not take for a constant.
    obs, noise = example_inputs(policy, 3 if rows is None else rows)
    batch = Dim("batch", min=1, max=65_536) if rows is None else None
    shapes = None if batch is None else ({name: {0: batch} for name in obs}, {0: batch})
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                ActGraph(policy, count, guidance), (obs, noise), dynamic_shapes=shapes
            )
    except InputError:
        raise
    except Exception as error:  # whatever a network of the user's raises while it is traced
        reason = one_line(error)
        raise InputError(
            f"this policy cannot be made a graph ({type(error).__name__}: {reason:.300}): a part of it "
            "decides something by the numbers that it sees, or makes one size out of another"
        ) from error
    _check_deterministic(program, count)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which files would carry elsewhere
    return program


def example_inputs(policy: Acting, rows: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Observations in the range of the training data, and noise, of ``rows`` rows."""
    generator = torch.Generator().manual_seed(seed)
    obs = {}
    for name, shape in policy.obs_shapes.items():
        uniform = 2 * torch.rand((rows, policy.n_obs_steps, *shape), generator=generator) - 1
        obs[name] = policy.normalizer.unnormalize(name, uniform)
        if name in policy.cameras:
            obs[name] = obs[name].round().to(torch.uint8)
    return obs, torch.randn((rows, policy.horizon, policy.action_dim), generator=generator)


def _check_deterministic(program: ExportedProgram, steps: int) -> None:
    drawn = {
        str(node.target).split(".")[1]
        for node in program.graph.nodes
        if node.op == "call_function" and str(node.target).startswith("aten.")
    }
    if random := sorted(drawn & set(RANDOM)):
        raise InputError(
            f"steps={steps} of this objective draws random numbers between its steps ({', '.join(random)}), "
            "which no seed would reach in a graph: export another number of steps, such as steps=1"
        )
