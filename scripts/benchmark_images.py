from shortcut_policy.commands.cli import benchmark_images

if __name__ == "__main__":
    benchmark_images()
