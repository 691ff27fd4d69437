"""How closely Push-T follows the human demonstrations and the public gym-pusht package, and how fast it is.

    python benchmarks/pusht_parity.py --data DIR --gym-pusht-python ENV/bin/python

where ENV has `gym-pusht==0.1.8` and `pymunk<7`. Prints and writes results/pusht/parity.json.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pymunk
from PIL import Image

from shortcut_envs.pusht.env import PushTEnv
from shortcut_envs.pusht.physics import (
    KEYPOINTS,
    SUCCESS_COVERAGE,
    PushTSimulator,
    PushTState,
    sample_start,
    transform_points,
)
from shortcut_envs.pusht.render import dataset_image
from shortcut_policy.data import ZarrSource
from shortcut_policy.paths import write_atomic

ROOT = Path(__file__).resolve().parent.parent
RANDOM_EPISODES, RANDOM_STEPS, HOLD = 100, 100, 5


def replay(
    starts: list[PushTState], actions: list[np.ndarray], legacy_order: bool
) -> list[dict[str, np.ndarray]]:
    """Run each episode open loop; each gives `states` (T + 1, 5), angle not wrapped, `coverage` (T + 1,)."""
    simulator = PushTSimulator()
    episodes = []
    for start, episode_actions in zip(starts, actions, strict=True):
        simulator.set_state(start, legacy_order=legacy_order, settle=True)
        states, coverage = [_flat(simulator)], [simulator.coverage()]
        for action in episode_actions:
            simulator.step(action)
            states.append(_flat(simulator))
            coverage.append(simulator.coverage())
        episodes.append({"states": np.array(states), "coverage": np.array(coverage)})
    return episodes


def human_parity(source: ZarrSource) -> dict[str, Any]:
    """Replay every recorded action sequence from the recorded first state, and from the seeded start."""
    ends = [int(end) for end in source.episode_ends]
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    recorded = [source.read("state", *span).astype(np.float64) for span in spans]
    actions = [source.read("action", *span) for span in spans]
    seeded = [sample_start(np.random.RandomState(episode)) for episode in range(len(spans))]
    return {
        "episodes": len(spans),
        "steps": ends[-1],
        "from_recorded_first_states": _replay_error([r[0] for r in recorded], actions, recorded, False),
        "from_seeded_legacy_starts": _replay_error(seeded, actions, recorded, True),
        "keypoint_error_px": _keypoint_error(source),
    }


def _replay_error(
    starts: list[np.ndarray], actions: list[np.ndarray], recorded: list[np.ndarray], legacy_order: bool
) -> dict[str, Any]:
    replayed = replay([PushTState.at_rest(start) for start in starts], actions, legacy_order)
    # The last replayed state lies after the last recorded action, where nothing was recorded.
    difference = np.concatenate([r["states"][:-1] - s for r, s in zip(replayed, recorded, strict=True)])
    angle = np.abs((difference[:, 4] + np.pi) % (2 * np.pi) - np.pi)
    simulator, recorded_coverage = PushTSimulator(), []
    for states in recorded:
        simulator.set_state(PushTState.at_rest(states[-1]))
        recorded_coverage.append(simulator.coverage())
    at_end = np.array([r["coverage"][-2] for r in replayed])
    final = np.array([r["coverage"][-1] for r in replayed])
    best = np.array([r["coverage"].max() for r in replayed])
    return {
        "block_error_px": _quantiles(np.linalg.norm(difference[:, 2:4], axis=1)),
        "agent_error_px": _quantiles(np.linalg.norm(difference[:, :2], axis=1)),
        "block_angle_error_rad": _quantiles(angle),
        "coverage_at_last_recorded_state_max_error": float(np.abs(at_end - recorded_coverage).max()),
        "coverage_after_last_action": {
            "min": float(final.min()),
            "median": float(np.median(final)),
            "max": float(final.max()),
        },
        "mean_max_score": float(np.minimum(best / SUCCESS_COVERAGE, 1.0).mean()),
        "strict_success_rate": float((best > SUCCESS_COVERAGE).mean()),
    }


def _keypoint_error(source: ZarrSource) -> dict[str, float]:
    count = int(source.episode_ends[-1])
    states = source.read("state", 0, count).astype(np.float64)
    computed = np.array([transform_points(KEYPOINTS, state[2:]) for state in states])
    return _quantiles(np.abs(computed - source.read("keypoint", 0, count)).max(axis=(1, 2)))


def sample_frames(source: ZarrSource, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `stride`-th recorded state (F, 5) and image (F, 96, 96, 3) uint8."""
    count = int(source.episode_ends[-1])
    states, images = [], []
    for start in range(0, count, 161):  # one stored chunk of images at a time: all of them are 2.8 GB
        rows = range(-start % stride, min(161, count - start), stride)
        if rows:
            chunk = slice(start, start + rows[-1] + 1)
            images.append(source.read("img", chunk.start, chunk.stop)[rows[0] :: stride].astype(np.uint8))
            states.append(source.read("state", chunk.start, chunk.stop)[rows[0] :: stride])
    return np.concatenate(states).astype(np.float64), np.concatenate(images)


def pixel_error(ours: np.ndarray, recorded: np.ndarray) -> dict[str, float]:
    """Mean absolute error of 0..255 pixel values over all frames, the worst frame, and the pixels far off."""
    error = np.abs(ours.astype(np.int16) - recorded)
    return {
        "mean_abs_error": float(error.mean()),
        "worst_frame_mean_abs_error": float(error.mean(axis=(1, 2, 3)).max()),
        "share_of_pixels_off_by_more_than_16": float((error.max(axis=-1) > 16).mean()),
    }


def save_side_by_side(ours: np.ndarray, recorded: np.ndarray, path: Path) -> None:
    """Recorded frames above, the same states drawn here below them, then the absolute difference."""
    chosen = np.linspace(0, len(ours) - 1, 6).astype(int)
    difference = np.abs(ours.astype(np.int16) - recorded).astype(np.uint8)
    rows = [np.concatenate(list(stack[chosen]), axis=1) for stack in (recorded, ours, 255 - difference)]
    grid = Image.fromarray(np.concatenate(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.resize((grid.width * 2, grid.height * 2), Image.Resampling.NEAREST).save(path, optimize=True)


def random_episodes() -> tuple[np.ndarray, np.ndarray]:
    """Evaluation starts (E, 5) and random targets (E, T, 2), each held for a while so that pushes happen."""
    rng = np.random.default_rng(0)
    starts = np.array([sample_start(np.random.RandomState(100_000 + i)) for i in range(RANDOM_EPISODES)])
    targets = rng.uniform(0.0, 512.0, (RANDOM_EPISODES, RANDOM_STEPS // HOLD, 2))
    return starts, np.repeat(targets, HOLD, axis=1)


def gym_pusht_parity(python: str, states: np.ndarray, recorded: np.ndarray) -> dict[str, Any]:
    """The same starts, actions and drawings in gym-pusht, run by its own interpreter."""
    starts, actions = random_episodes()
    ours = replay([PushTState.at_rest(start) for start in starts], list(actions), legacy_order=True)
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "given.npz"), Path(folder, "result.npz")
        np.savez(given, starts=starts, actions=actions, poses=states)
        script = Path(__file__).with_name("gym_pusht_reference.py")
        subprocess.run([python, "-W", "ignore", str(script), str(given), str(result)], check=True)
        theirs = {name: value for name, value in np.load(result).items()}
    mine = np.array([episode["states"] for episode in ours])
    moved = np.abs(np.diff(mine[:, :, 2:], axis=1)).max(axis=2) > 1e-9
    rewards = [
        np.clip(coverage / SUCCESS_COVERAGE, 0.0, 1.0)
        for coverage in (np.array([episode["coverage"][1:] for episode in ours]), theirs["coverage"])
    ]
    return {
        "episodes": RANDOM_EPISODES,
        "steps": int(actions.shape[0] * actions.shape[1]),
        "share_of_steps_that_move_the_block": float(moved.mean()),
        "max_state_difference": float(np.abs(mine - theirs["states"]).max()),
        "max_reward_difference": float(np.abs(rewards[0] - rewards[1]).max()),
        "pixel_error_of_gym_pusht": pixel_error(theirs["images"], recorded),
        "steps_per_second": float(moved.size / theirs["seconds"]),
        "steps_per_cpu_second": float(moved.size / theirs["cpu_seconds"]),
    }


def speed() -> dict[str, float]:
    """Environment steps a second on one core, coverage, reward, observation and info included."""
    _, actions = random_episodes()
    rates = {}
    for observation in ("state", "keypoints", "image"):
        env = PushTEnv(observation)
        episodes = RANDOM_EPISODES if observation != "image" else 10
        wall, cpu = time.perf_counter(), time.process_time()
        for episode in range(episodes):
            env.reset(seed=100_000 + episode)
            for action in actions[episode]:
                env.step(action)
        steps = episodes * RANDOM_STEPS
        rates[f"{observation}_steps_per_second"] = steps / (time.perf_counter() - wall)
        rates[f"{observation}_steps_per_cpu_second"] = steps / (time.process_time() - cpu)
    return rates


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_data = os.environ.get("SHORTCUT_POLICY_DATA", "data")
    parser.add_argument("--data", default=default_data, help="folder with pusht_cchi_v7_replay.zarr")
    parser.add_argument("--gym-pusht-python", help="interpreter of an environment with gym-pusht")
    parser.add_argument("--stride", type=int, default=25, help="draw every n-th recorded frame")
    parser.add_argument("--output", type=Path, default=ROOT / "results/pusht/parity.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/figures/pusht_render_parity.png")
    arguments = parser.parse_args()

    source = ZarrSource(Path(arguments.data, "pusht_cchi_v7_replay.zarr"))
    states, recorded = sample_frames(source, arguments.stride)
    drawn = np.array([dataset_image(state[:2], state[2:]) for state in states])
    save_side_by_side(drawn, recorded, arguments.figure)
    report: dict[str, Any] = {
        "human_demonstrations": human_parity(source),
        "rendering": {
            "frames": len(states),
            "frames_with_action_marker": int((recorded == (255, 0, 0)).all(axis=-1).any(axis=(1, 2)).sum()),
            **pixel_error(drawn, recorded),
        },
        "speed": speed(),
    }
    if arguments.gym_pusht_python:
        report["gym_pusht"] = gym_pusht_parity(arguments.gym_pusht_python, states, recorded)
    report["machine"] = f"{platform.machine()}, Python {platform.python_version()}, pymunk {pymunk.version}"
    report["commit"] = _commit()
    report["command"] = f"python benchmarks/pusht_parity.py {_portable(arguments)}".strip()
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text)
    write_atomic(arguments.output, text)


def _flat(simulator: PushTSimulator) -> tuple[float, ...]:
    state = simulator.get_state()
    return (*state.agent, *state.block)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
    }


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _portable(arguments: argparse.Namespace) -> str:
    """The options that change the figures, without the paths of this machine."""
    options = ["--data", "DIR", "--stride", str(arguments.stride)]
    if arguments.gym_pusht_python:
        options += ["--gym-pusht-python", "ENV/bin/python"]
    return shlex.join(options)


if __name__ == "__main__":
    main()
