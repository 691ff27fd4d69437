from shortcut_policy.commands.cli import teleop

if __name__ == "__main__":
    teleop()
