from shortcut_policy.cli import view

if __name__ == "__main__":
    view()
