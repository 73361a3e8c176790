"""One rank's work: tokens, batches, step, checkpoint. No Ray; runs under torchrun, in a notebook or on a bare GPU box."""
