from shortcut_policy.cli import convert

if __name__ == "__main__":
    convert()
