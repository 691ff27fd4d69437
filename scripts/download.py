from shortcut_policy.cli import download

if __name__ == "__main__":
    download()
