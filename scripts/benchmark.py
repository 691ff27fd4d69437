from shortcut_policy.commands.cli import benchmark

if __name__ == "__main__":
    benchmark()
