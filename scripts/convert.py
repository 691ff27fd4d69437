from shortcut_policy.commands.cli import convert

if __name__ == "__main__":
    convert()
