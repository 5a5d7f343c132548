//! What goes to Kafka: topics, records, and the batch that one transaction holds.

use bytes::Bytes;

/// The topics of the product, by role. Their names are configurable; see [`Topic::default_name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Entries that are neither Git events nor stream-only.
    Web,
    /// Git events (`git.*`).
    Git,
    /// Entries that exist only in GitHub's own stream.
    Stream,
    /// What no data topic can take, in pieces if need be.
    DeadLetter,
    /// Checkpoints, owner records and the genesis (compacted).
    Checkpoints,
    /// Changelog of the seen ids of web and stream entries.
    SeenWeb,
    /// Changelog of the seen ids of Git entries.
    SeenGit,
    /// Periods whose completeness cannot be claimed.
    Gaps,
    /// What operators did.
    Operations,
    /// Signed tree heads of archive logs.
    LogCheckpoints,
}

impl Topic {
    /// All topics, in the order in which they are created.
    pub const ALL: [Self; 10] = [
        Self::Checkpoints,
        Self::SeenWeb,
        Self::SeenGit,
        Self::Web,
        Self::Git,
        Self::Stream,
        Self::DeadLetter,
        Self::Gaps,
        Self::Operations,
        Self::LogCheckpoints,
    ];

    /// The name of the topic under the default prefixes.
    pub fn default_name(self) -> &'static str {
        match self {
            Self::Web => "github.audit.web",
            Self::Git => "github.audit.git",
            Self::Stream => "github.audit.stream",
            Self::DeadLetter => "github.audit.dlq",
            Self::Checkpoints => "ghauditd.checkpoints",
            Self::SeenWeb => "ghauditd.seen.web",
            Self::SeenGit => "ghauditd.seen.git",
            Self::Gaps => "ghauditd.gaps",
            Self::Operations => "ghauditd.operations",
            Self::LogCheckpoints => "ghauditd.log-checkpoints",
        }
    }

    /// Whether it holds state: partitioned alike, and addressed by the entity's partition.
    pub fn is_state(self) -> bool {
        matches!(self, Self::Checkpoints | Self::SeenWeb | Self::SeenGit)
    }

    /// Whether its records are entries: a data topic, or the dead letters.
    pub fn holds_entries(self) -> bool {
        matches!(self, Self::Web | Self::Git | Self::Stream | Self::DeadLetter)
    }

    /// Whether it is archived by default.
    pub fn is_archived(self) -> bool {
        matches!(
            self,
            Self::Web | Self::Git | Self::Stream | Self::DeadLetter | Self::Gaps | Self::Operations
        )
    }
}

/// One Kafka record. Cloning copies no payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it goes.
    pub topic: Topic,
    /// The partition, where we choose it (state topics); `None`: by murmur2 of the key, as Java clients do.
    pub partition: Option<i32>,
    /// The key.
    pub key: Bytes,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers, in this order.
    pub headers: Vec<(&'static str, Bytes)>,
}

/// What one transaction will hold: all of it becomes visible, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The records, in this order.
    pub records: Vec<Record>,
}

impl Batch {
    /// Bytes of keys, values and headers.
    pub fn payload_bytes(&self) -> usize {
        self.records
            .iter()
            .map(|record| {
                record.key.len()
                    + record.value.as_ref().map_or(0, Bytes::len)
                    + record
                        .headers
                        .iter()
                        .map(|(name, value)| name.len() + value.len())
                        .sum::<usize>()
            })
            .sum()
    }
}
