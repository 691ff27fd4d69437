from shortcut_policy.commands.cli import serve

if __name__ == "__main__":
    serve()
