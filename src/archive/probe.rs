//! What a store must prove before anything is archived to it.

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// What it is.
    pub name: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// More, for people; may be empty.
    pub detail: String,
}

/// How a property was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Tried, and it holds.
    Held,
    /// Could not be tried: a policy refused the attempt itself. Never a pass.
    NotProvable,
    /// It is not there, and the store is used all the same; `detail` says what that means.
    Absent,
    /// The config does not ask for it.
    NotWanted,
}
