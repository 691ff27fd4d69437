"""Simulated tasks. Importing this package registers its environments with gymnasium.

`gymnasium.make("envs:shortcut_policy/PushTKeypoints-v0")` imports it and makes the environment in one call.
"""

import gymnasium

# No max_episode_steps: the environments truncate by themselves, and a TimeLimit on top would count twice.
for _observation in ("State", "Keypoints", "Image"):
    gymnasium.register(
        id=f"shortcut_policy/PushT{_observation}-v0",
        entry_point="envs.pusht:PushTEnv",
        kwargs={"observation": _observation.lower()},
    )

for _name, _task in (
    ("Lift", "Lift"),
    ("Can", "PickPlaceCan"),
    ("Square", "NutAssemblySquare"),
    ("Transport", "TwoArmTransport"),
    ("ToolHang", "ToolHang"),
):
    gymnasium.register(
        id=f"shortcut_policy/{_name}-v0",
        entry_point="envs.robosuite_env:RobosuiteEnv",
        kwargs={"task": _task},
    )
