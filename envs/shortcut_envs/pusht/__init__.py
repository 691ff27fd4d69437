"""Push-T: the environment, its physics and pictures, and a scripted expert."""
