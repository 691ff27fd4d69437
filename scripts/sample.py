from shortcut_policy.commands.cli import sample

if __name__ == "__main__":
    sample()
