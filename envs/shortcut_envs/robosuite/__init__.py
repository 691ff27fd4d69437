"""The tasks of robomimic in robosuite, with scripted experts."""
