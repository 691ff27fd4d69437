"""The side of `serve_openpi.py` that has openpi's client, NumPy below 2 and no torch.

    python serve_openpi_side.py URL FIRST_SEED EPISODES

Prints the episodes of each way to play as JSON. The ways:

history: asks once a chunk, with the whole history and the number of episode and chunk.
broker_history: the same through openpi's ActionChunkBroker, which is asked in every step.
broker: through the broker with one observation, nothing else: what a client of openpi does by itself.
broker_last_request: the same, and the history of the last request, of n_action_steps steps ago, goes on.
"""

import json
import sys
from collections import deque
from importlib.metadata import version

import gymnasium
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from serve_openpi_record import Record

ENVIRONMENT = "shortcut_envs:shortcut_policy/PushTKeypoints-v0"
WAYS = ("history", "broker_history", "broker", "broker_last_request")


def play(policy, env, seed: int, way: str, sizes: dict) -> dict:
    """One episode."""
    obs, _ = env.reset(seed=seed)
    history = deque([obs] * sizes["n_obs_steps"], maxlen=sizes["n_obs_steps"])
    broker = ActionChunkBroker(policy, sizes["n_action_steps"])
    record, chunk = Record(seed), []
    while not record.over:
        number, played = divmod(record.steps, sizes["n_action_steps"])
        asked = dict(obs)
        if way.endswith("history"):
            asked = {name: np.stack([step[name] for step in history]) for name in obs}
            asked["__request__"] = {"seed": 0, "episode": seed, "chunk": number}
        if way == "broker_last_request":
            asked["__request__"] = {"consecutive": True, "reset": number == 0}
        if way == "history":
            chunk = policy.infer(asked)["actions"] if played == 0 else chunk
            action = chunk[played]
        else:
            action = broker.infer(asked)["actions"]
        obs, *outcome = env.step(action)
        history.append(obs)
        record.add(action, *outcome)
    return record.row()


def main() -> None:
    """Play all and print."""
    url, first, episodes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    seeds = range(first, first + episodes)
    ways = {}
    for way in WAYS:
        policy = WebsocketClientPolicy(url)
        env = gymnasium.make(ENVIRONMENT)
        ways[way] = [play(policy, env, seed, way, policy.get_server_metadata()) for seed in seeds]
    names = ("openpi-client", "numpy", "websockets", "msgpack", "gymnasium", "pymunk")
    print(json.dumps({"versions": {name: version(name) for name in names}, "ways": ways}))


if __name__ == "__main__":
    main()
