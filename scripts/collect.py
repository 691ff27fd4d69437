from shortcut_policy.commands.cli import collect

if __name__ == "__main__":
    collect()
