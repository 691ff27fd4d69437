from shortcut_policy.commands.cli import view

if __name__ == "__main__":
    view()
