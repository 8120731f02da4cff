//! The SSH transport: algorithms, rekeying, compression, and many connections.

mod algorithms;
mod connections;
mod rekey;
