"""Simulated tasks. Importing this package registers its environments with gymnasium; it imports no simulator.

`gymnasium.make("shortcut_envs:shortcut_policy/PushTKeypoints-v0")` imports it and makes the environment
in one call, after `import gymnasium` alone. Gymnasium 1.0 to 1.4 read no entry points of plugins, in spite of
the messages of `gymnasium.register` that speak of them, hence the name of the package before the colon.
"""

import gymnasium

from shortcut_envs.metaworld.tasks import SETS, TASKS
from shortcut_envs.ogbench.scenes import SCENES

# No max_episode_steps: the environments truncate by themselves, and a TimeLimit on top would count twice.
for _observation in ("State", "Keypoints", "Image"):
    gymnasium.register(
        id=f"shortcut_policy/PushT{_observation}-v0",
        entry_point="shortcut_envs.pusht.env:PushTEnv",
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
        entry_point="shortcut_envs.robosuite.env:RobosuiteEnv",
        kwargs={"task": _task},
    )

# Names such as MetaWorld-reach-v3 and MetaWorld-mt10.
for _name in (*TASKS, *SETS):
    gymnasium.register(
        id=f"shortcut_policy/MetaWorld-{_name}",
        entry_point="shortcut_envs.metaworld.env:MetaWorldEnv",
        kwargs={"task": _name},
    )

for _name in SCENES:
    gymnasium.register(
        id=f"shortcut_policy/OGBench-{_name}",
        entry_point="shortcut_envs.ogbench.env:OGBenchEnv",
        kwargs={"scene": _name},
    )

gymnasium.register(id="shortcut_policy/Kitchen-v0", entry_point="shortcut_envs.kitchen.env:KitchenEnv")

for _name, _task in (("TransferCube", "transfer_cube"), ("Insertion", "insertion")):
    gymnasium.register(
        id=f"shortcut_policy/Aloha{_name}-v0",
        entry_point="shortcut_envs.aloha.env:AlohaEnv",
        kwargs={"task": _task},
    )
