"""Policies of ``shortcut_policy`` in LeRobot, as ``--policy.type=shortcut``.

LeRobot imports this package when its commands start, because of its name, and knows the policy from then on.
"""

from importlib.util import find_spec

# Without LeRobot there is nothing to register with; what translates between the two can be used all the same.
if find_spec("lerobot") is not None:
    from lerobot_policy_shortcut import optimizer_shortcut, processor_shortcut
    from lerobot_policy_shortcut.configuration_shortcut import ShortcutConfig
    from lerobot_policy_shortcut.modeling_shortcut import ShortcutPolicy

    __all__ = ["ShortcutConfig", "ShortcutPolicy", "optimizer_shortcut", "processor_shortcut"]
