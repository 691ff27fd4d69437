"""Playing a policy in its environment: episodes, statistics, latency, films."""
