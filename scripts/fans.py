from shortcut_policy.cli import fans

if __name__ == "__main__":
    fans()
