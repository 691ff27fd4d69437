from shortcut_policy.cli import ablations

if __name__ == "__main__":
    ablations()
