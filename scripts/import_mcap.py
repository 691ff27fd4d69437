from shortcut_policy.commands.cli import import_mcap

if __name__ == "__main__":
    import_mcap()
