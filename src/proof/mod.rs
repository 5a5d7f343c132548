//! Merkle tree, tiles, signed notes and proofs: pure functions over bytes. Reserved for the archive's log.
