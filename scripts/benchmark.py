from shortcut_policy.cli import benchmark

if __name__ == "__main__":
    benchmark()
