"""Whether exports play like the policy: the same starts, the same noise, success and failure of each start.

    OMP_NUM_THREADS=1 python benchmarks/export_parity.py [--starts 300] [--low 600]

Runtimes in fp32 play ``--starts`` starts of Push-T with one step, those in bf16 and int8 ``--low``. The
pushing of a block is chaotic: a difference in the last digit of an action can decide an episode. So the
policy itself plays its starts once more with actions that are off by as much as those of ONNX Runtime are, at
random. ``results/act/parity.json`` has the rows.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from shortcut_policy import Policy, load_policy
from shortcut_policy.adaptive import Sample
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.episode import EpisodeResult
from shortcut_policy.rollout.evaluate import environment_maker
from shortcut_policy.rollout.play import rollout

ROOT = Path(__file__).resolve().parents[1]
FIRST_SEED = 100_000
#: Pixels by which actions of a float32 export are off.
ROUNDING = 1e-4
RUNTIMES = (
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("aoti", "fp32"),
    ("aoti", "bf16"),
)


class Rounded(Policy):
    """Acts with actions that are off by `ROUNDING` at most."""

    def predict_with_cost(self, *arguments: Any, **options: Any) -> Sample:
        """As the policy's own, disturbed."""
        found = super().predict_with_cost(*arguments, **options)
        return found._replace(x=found.x + ROUNDING * (2 * torch.rand_like(found.x) - 1))


def main() -> None:
    """Play, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=300, help="of exports in fp32")
    parser.add_argument("--low", type=int, default=600, help="of exports in bf16 and int8")
    parser.add_argument("--runtimes", nargs="+", default=["onnx", "openvino", "aoti"])
    options = parser.parse_args()
    policy = load_policy(ROOT / "pretrained" / "pusht")
    own = play(policy, max(options.starts, options.low))
    disturbed = load_policy(ROOT / "pretrained" / "pusht")
    disturbed.__class__ = Rounded
    torch.manual_seed(0)
    rows = [compare("eager, actions off by 1e-4 px at random", "fp32", own, play(disturbed, options.starts))]
    for runtime, precision in RUNTIMES:
        if runtime in options.runtimes:
            starts = options.starts if precision == "fp32" else options.low
            rows.append(
                compare(runtime, precision, own, play(policy.compile(runtime, precision=precision), starts))
            )
            print(rows[-1], flush=True)
    found = {"command": command_line(), "commit": commit(), "versions": library_versions(), "rows": rows}
    write_atomic(ROOT / "results" / "act" / "parity.json", json.dumps(found, indent=2) + "\n")


def play(policy: Policy, starts: int) -> Sequence[EpisodeResult]:
    """The first so many starts, with one step."""
    seeds = range(FIRST_SEED, FIRST_SEED + starts)
    return rollout(policy, environment_maker(policy, {}), seeds, 1, num_envs=50, batch_size=50)


def compare(
    runtime: str, precision: str, own: Sequence[EpisodeResult], played: Sequence[EpisodeResult]
) -> dict[str, Any]:
    """Starts that ended alike, and success of both."""
    pairs = list(zip(own, played, strict=False))
    return {
        "runtime": runtime,
        "precision": precision,
        "starts": len(pairs),
        "same_outcome": sum(a.success == b.success for a, b in pairs),
        "same_score_to_1e-6": sum(abs(a.score - b.score) < 1e-6 for a, b in pairs),
        "success_own": sum(a.success for a, _ in pairs) / len(pairs),
        "success": sum(b.success for _, b in pairs) / len(pairs),
        "score_own": sum(a.score for a, _ in pairs) / len(pairs),
        "score": sum(b.score for _, b in pairs) / len(pairs),
    }


if __name__ == "__main__":
    main()
