"""What an update of the default training asks of a GPU, beside an older version: counted, not timed.

    git worktree add /tmp/old 28240b4
    python benchmarks/update_counts.py --old /tmp/old

Counts the operations that an update launches (forward, backward and optimizers; clipping and averaging of
weights are left out, and alike in all) and its floating-point operations, of the default of each version and
of flow matching, on a batch of the default size. A small network on a GPU waits for launches: below some
hundred thousand numbers an operation takes the few microseconds of its launch. What is counted is what torch
dispatches without views; some of these are several kernels, a fused optimizer's is one for many tensors.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from checkouts import commit_of, environment_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = Path("results/training_cost/counts.json")
#: Allocations and looks at a tensor, which launch nothing.
NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh"}


class Launches(TorchDispatchMode):
    """Counts the operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count it, and do it."""
        view = any(out.alias_info and not out.alias_info.is_write for out in func._schema.returns)
        if not view and func.overloadpacket.__name__ not in NOTHING:
            self.count += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, help="a checkout of the older version")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--count", nargs="*", help="what the command asks of itself in each checkout")
    options = parser.parse_args()
    if options.count is not None:
        print(json.dumps(counted(options.count)))
        return
    from shortcut_policy.paths import write_atomic
    from shortcut_policy.provenance import command_line, commit, library_versions

    asked: list[tuple[str, Path, list[str]]] = [("default", ROOT, [])]
    if options.old:
        asked.append(("default of the older version", options.old, []))
    asked.append(("flow matching", ROOT, ["objective=flow_matching"]))
    rows = [{"name": name, **in_checkout(checkout, more)} for name, checkout, more in asked]
    for row in rows:
        print(f"{row['name']}: {row['launches']:.0f} launches and {row['gflop']:.1f} GFLOP, the mean of")
        for phase in row["phases"]:
            print(f"    {phase['launches']} and {phase['gflop']:.1f} from {phase['start']:.2f} on")
    document = {
        "command": command_line(),
        "commit": commit(),
        "versions": library_versions(),
        "rows": rows,
    }
    write_atomic(options.output, json.dumps(document, indent=2) + "\n")


def in_checkout(checkout: Path, overrides: list[str]) -> dict[str, Any]:
    """`counted`, with the packages of a checkout."""
    done = subprocess.run(
        [sys.executable, __file__, "--count", *overrides],
        cwd=checkout,
        env=environment_of(checkout, first=["benchmarks"]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"commit": commit_of(checkout, letters=12)}


def counted(overrides: list[str]) -> dict[str, Any]:
    """Launches and FLOPs of an update in each phase of a training, and their means over it."""
    # Of the checkout: the folder of this file comes before what the environment names.
    sys.path.remove(str(Path(__file__).resolve().parent))
    from training_step import bare_update, make_trainer

    from shortcut_policy.backbones import unet1d
    from shortcut_policy.objectives.base import cost_phases

    # Convolutions are counted as a GPU runs them, also on a CPU where they are computed as products.
    for flag in ("HAS_ONEDNN", "HAS_AVX512"):
        setattr(unet1d, flag, True)
    trainer = make_trainer("task=pusht", "trainer.precision=fp32", "cpu=true", *overrides)
    # Older trainers call it their policy.
    model = trainer.model if hasattr(trainer, "model") else trainer.policy
    phases: list[dict[str, Any]] = []
    for start, end in cost_phases(model.objective):
        update = bare_update(trainer, (start + end) / 2)
        update()  # makes the state of the optimizers
        with FlopCounterMode(display=False) as flops:
            update()
        with Launches() as launches:
            update()
        found = {"launches": launches.count, "gflop": flops.get_total_flops() / 1e9}
        if phases and all(phases[-1][key] == found[key] for key in found):
            phases[-1]["end"] = end
        else:
            phases.append({"start": start, "end": end, **found})
    means = {
        key: sum((phase["end"] - phase["start"]) * phase[key] for phase in phases)
        for key in ("launches", "gflop")
    }
    return {"batch_size": trainer.config.batch_size, "torch": torch.__version__, **means, "phases": phases}


if __name__ == "__main__":
    main()
