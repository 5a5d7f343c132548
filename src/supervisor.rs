//! Named tasks, cancellation, grace.
