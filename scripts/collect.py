from shortcut_policy.cli import collect

if __name__ == "__main__":
    collect()
