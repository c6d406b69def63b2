//! What every communicator must do, as a suite that runs on all of them.
