"""Simulated tasks. Importing this package registers its environments with gymnasium.

`gymnasium.make("envs:shortcut_policy/PushTKeypoints-v0")` imports it and makes the environment in one call.
"""

import gymnasium

for _observation in ("State", "Keypoints", "Image"):
    # No max_episode_steps: PushTEnv truncates by itself, a TimeLimit on top would count the same steps twice.
    gymnasium.register(
        id=f"shortcut_policy/PushT{_observation}-v0",
        entry_point="envs.pusht:PushTEnv",
        kwargs={"observation": _observation.lower()},
    )
