from shortcut_policy.commands.cli import render

if __name__ == "__main__":
    render()
