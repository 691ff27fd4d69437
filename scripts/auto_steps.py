from shortcut_policy.cli import auto_steps

if __name__ == "__main__":
    auto_steps()
