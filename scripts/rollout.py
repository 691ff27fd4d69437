from shortcut_policy.commands.cli import rollout

if __name__ == "__main__":
    rollout()
