"""What a server adds to the time of a policy, and how it bears many clients.

    python benchmarks/serve.py [--seconds 5] [--crowd-seconds 60] [--output results/serve/results.json]

Overhead: the same chunk, in turns, from the server and from `Policy.act` in this process, with one thread of
computation each, of the checkpoint, of its export and of a policy of one camera. Load: clients of
`shortcut_client` in threads of this process, either as fast as they are answered, or as robots of 10 control
steps a second ask, once a chunk. The server has a process of its own.
"""

import argparse
import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from serve_process import Server, served

from shortcut_client import ClientError, ShortcutClient
from shortcut_policy import Field, Policy, load_policy, save_policy
from shortcut_policy.adaptive import time_calls
from shortcut_policy.control import chunk_generator
from shortcut_policy.data import Normalizer
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.runtimes.export import write_export
from shortcut_policy.serving.batching import Batcher

CLIENTS, BATCHES, RATE_HZ = (1, 8, 50), (1, 8), 10
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 50)
WARM_UP, CALLS = 50, 1000
Observation = dict[str, np.ndarray]


def observation(policy: Policy, random: np.random.Generator) -> Observation:
    """A history of one of the policy's observations, in the middle of their range."""
    obs = {}
    for name, shape in policy.obs_shapes.items():
        size = (policy.n_obs_steps, *shape)
        numbers = random.integers(100, 400, size).astype(np.float32)
        obs[name] = random.integers(0, 256, size, np.uint8) if name in policy.cameras else numbers
    return obs


def image_policy(folder: Path) -> Path:
    """An untrained policy of one 96 x 96 image, one step of history: weights do not change the time."""
    obs = {"image": Field("image", (96, 96, 3), normalize="image")}
    action = Field("action", (2,), normalize="identity")
    sizes = {"horizon": 8, "n_obs_steps": 1, "n_action_steps": 8}
    policy = Policy.build(obs, action, **sizes, encoder="image_light", backbone="unet_small")
    # Neither of the two is scaled by statistics.
    policy.normalizer.load_state_dict(Normalizer({**obs, "action": action}, {}).state_dict())
    save_policy(policy, folder)
    return folder


def overhead(name: str, checkpoint: str | Path) -> dict[str, Any]:
    """Round trips and calls in turns, milliseconds."""
    policy = load_policy(checkpoint)
    obs = observation(policy, np.random.default_rng(0))
    here: list[float] = []
    there: list[float] = []
    outside: list[float] = []
    with served(checkpoint) as server, ShortcutClient(server.url) as client:
        for number in range(WARM_UP + CALLS):
            begun = time.perf_counter()
            batch = {key: value[None] for key, value in obs.items()}
            policy.act(batch, 1, [chunk_generator(0, 0, number)])[0].numpy()
            between = time.perf_counter()
            answer = client.infer(obs, seed=0, episode=0, chunk=number)
            there.append(1000 * (time.perf_counter() - between))
            here.append(1000 * (between - begun))
            outside.append(there[-1] - answer["server_timing"]["infer_ms"])
    here, there, outside = here[WARM_UP:], there[WARM_UP:], outside[WARM_UP:]
    p10, p50 = np.percentile(there, [10, 50]) - np.percentile(here, [10, 50])
    return {
        "case": name,
        "calls": CALLS,
        "act_p50_ms": round(float(np.median(here)), 3),
        "served_p50_ms": round(float(np.median(there)), 3),
        "overhead_p50_ms": round(float(p50), 3),
        # What a busy machine disturbs least.
        "overhead_p10_ms": round(float(p10), 3),
        "outside_of_inference_p50_ms": round(float(np.median(outside)), 3),
    }


def load(server: Server, policy: Policy, clients: int, seconds: float, period: float) -> dict[str, Any]:
    """What so many clients find; each asks every ``period`` seconds, or at once if it is 0."""
    milliseconds: list[float] = []
    lost: list[str] = []
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        random = np.random.default_rng(number)
        with ShortcutClient(server.url, timeout=10.0, patience=10.0) as client:
            time.sleep(period * random.random())  # robots do not start at the same time
            while (begun := time.monotonic()) < end:
                try:
                    client.infer(observation(policy, random), seed=0, episode=number)
                    milliseconds.append(1000 * (time.monotonic() - begun))
                except ClientError as error:
                    lost.append(str(error))
                time.sleep(max(0.0, begun + period - time.monotonic()))

    before = server.memory_mb()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {
        "clients": clients,
        "asks_every_s": period,
        "seconds": seconds,
        "answers": len(milliseconds),
        "answers_per_s": round(len(milliseconds) / seconds, 1),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "largest_ms": round(max(milliseconds), 2),
        "lost": len(lost),
        "memory_mb": [before, server.memory_mb()],
    }


def batches(checkpoint: str) -> list[dict[str, Any]]:
    """What a batch costs, whoever is in it, and how many of its rows round alike."""
    policy, rows = load_policy(checkpoint), []
    obs = observation(policy, np.random.default_rng(0))
    for size in BATCH_SIZES:
        batch = {name: np.stack([value] * size) for name, value in obs.items()}
        generators = [chunk_generator(0, 0, 0) for _ in range(size)]
        times = time_calls(lambda: policy.act(batch, 1, generators), 30)  # noqa: B023 (called here)
        places = asyncio.run(_places(policy, size))
        rows.append({"batch_size": size, "p50_ms": round(float(np.median(times)), 2), "rows_used": places})
    return rows


async def _places(policy: Policy, size: int) -> int:
    batcher = Batcher(policy, size, 1)
    await batcher.start()
    await batcher.close()
    return len(batcher.places)


def loads(checkpoint: str, seconds: Callable[[int], float]) -> list[dict[str, Any]]:
    """Every number of clients, at once and in the pace of robots, for each size of batch."""
    policy, rows = load_policy(checkpoint), []
    for batch_size in BATCHES:
        with served(checkpoint, f"batch_size={batch_size}") as server:
            for period in (policy.n_action_steps / RATE_HZ, 0.0):
                for clients in CLIENTS:
                    row = load(server, policy, clients, seconds(clients), period)
                    rows.append({"batch_size": batch_size, **row})
    return rows


def machine_load() -> list[float]:
    """Processes that run or want to, on average."""
    return [round(average, 2) for average in os.getloadavg()]


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Rows of one kind as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=160).print(table)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="pretrained/pusht")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument("--crowd-seconds", type=float, help="of the rows of most clients; for the record 60")
    parser.add_argument("--output", type=Path, default=Path("results/serve/results.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = machine_load()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "openvino"
        write_export(load_policy(arguments.checkpoint), exported, format="openvino", precision="fp32")
        image = image_policy(Path(folder) / "image")
        cases = {"state": arguments.checkpoint, "state, OpenVINO": exported, "one 96x96 image": image}
        overheads = [overhead(name, checkpoint) for name, checkpoint in cases.items()]
    show(overheads, "overhead")
    costs = batches(arguments.checkpoint)
    show(costs, "batches")
    crowd = arguments.crowd_seconds or arguments.seconds
    rows = loads(
        arguments.checkpoint, lambda clients: crowd if clients == max(CLIENTS) else arguments.seconds
    )
    show(rows, "load")
    content = {
        "rows": rows,
        "overhead": overheads,
        "batches": costs,
        # Of one, five and fifteen minutes; afterwards with the server and its clients themselves.
        "load_average_before": before,
        "load_average_after": machine_load(),
        "device": device_name(torch.device("cpu")),
        "threads": 1,
        "versions": library_versions("torch", "numpy", "websockets", "msgpack"),
        "commit": commit(),
        "command": command_line(),
    }
    write_atomic(arguments.output, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
