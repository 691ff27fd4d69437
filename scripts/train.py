from shortcut_policy.commands.cli import train

if __name__ == "__main__":
    train()
