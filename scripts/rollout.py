from shortcut_policy.cli import rollout

if __name__ == "__main__":
    rollout()
