from shortcut_policy.commands.cli import download

if __name__ == "__main__":
    download()
