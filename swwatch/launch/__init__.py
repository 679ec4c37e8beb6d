"""Several processes for one command: where each stands, how they are started, how a signal ends them."""
