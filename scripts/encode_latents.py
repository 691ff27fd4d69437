from shortcut_policy.commands.cli import encode_latents

if __name__ == "__main__":
    encode_latents()
