from shortcut_policy.commands.cli import export

if __name__ == "__main__":
    export()
