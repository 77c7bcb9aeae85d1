"""Whether batches are still what a version's promise was made for: alarm rates, drift of scores and of inputs."""
