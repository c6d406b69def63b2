//! Pre-trains BERT: configuration, step loop, optimizer, checkpoints, metrics.
