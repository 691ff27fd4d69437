from shortcut_policy.cli import overview

if __name__ == "__main__":
    overview()
