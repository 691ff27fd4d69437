from shortcut_policy.cli import toy_samples

if __name__ == "__main__":
    toy_samples()
