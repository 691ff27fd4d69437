from shortcut_policy.cli import step_errors

if __name__ == "__main__":
    step_errors()
