//! GitHub's audit log actions with their weights and fields, from the embedded `data/actions.tsv`.

use crate::audit::Lane;
use std::sync::OnceLock;

/// Lines `F name kind` (a field) and `A action weight numbers-of-fields`.
const ACTIONS: &str = include_str!("data/actions.tsv");

/// What a field's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Array of numbers.
    Numbers,
    /// Array of words.
    Words,
    /// Object.
    Object,
    /// Time as an ISO-8601 string.
    Iso,
    /// Time in epoch milliseconds.
    Millis,
    /// `true` or `false`.
    Flag,
    /// Git object name.
    Sha,
    /// E-mail address.
    Email,
    /// URL.
    Url,
    /// A database id.
    Id,
    /// A small number.
    Small,
    /// `public`, `private`, `internal`.
    Visibility,
    /// A fingerprint.
    Fingerprint,
    /// `read`, `write`, `admin`.
    Permission,
    /// A sentence.
    Sentence,
    /// A login.
    Login,
    /// `owner/name`.
    Repo,
    /// A git ref.
    Branch,
    /// UUID.
    Uuid,
    /// `http` or `ssh`.
    Protocol,
    /// A workflow file at a ref.
    WorkflowRef,
    /// A word.
    Word,
}

impl Kind {
    fn of(letter: &str) -> Self {
        match letter {
            "A" => Self::Numbers,
            "a" => Self::Words,
            "o" => Self::Object,
            "T" => Self::Iso,
            "t" => Self::Millis,
            "b" => Self::Flag,
            "h" => Self::Sha,
            "e" => Self::Email,
            "u" => Self::Url,
            "I" => Self::Id,
            "i" => Self::Small,
            "v" => Self::Visibility,
            "f" => Self::Fingerprint,
            "x" => Self::Permission,
            "m" => Self::Sentence,
            "l" => Self::Login,
            "r" => Self::Repo,
            "B" => Self::Branch,
            "U" => Self::Uuid,
            "P" => Self::Protocol,
            "j" => Self::WorkflowRef,
            _ => Self::Word,
        }
    }
}

/// One action.
#[derive(Debug)]
pub(crate) struct Action {
    /// For example `repo.create`.
    pub(crate) name: &'static str,
    /// Its additional fields.
    pub(crate) fields: Vec<(&'static str, Kind)>,
    /// Sum of the weights up to and including this action, within its lane.
    weight_end: u64,
}

/// The actions of one lane.
#[derive(Debug, Default)]
pub(crate) struct Actions(Vec<Action>);

impl Actions {
    /// The action of a draw, as often as its weight says.
    pub(crate) fn pick(&self, draw: u64) -> Option<&Action> {
        let total = self.0.last()?.weight_end;
        let place = draw.checked_rem(total)?;
        self.0.get(self.0.partition_point(|action| action.weight_end <= place))
    }

    fn push(&mut self, name: &'static str, weight: u64, fields: Vec<(&'static str, Kind)>) {
        let before = self.0.last().map_or(0, |action| action.weight_end);
        self.0.push(Action { name, fields, weight_end: before + weight });
    }
}

/// The actions of a lane: `git.*` for the Git lane, all others for the web lane.
pub(crate) fn actions(lane: Lane) -> &'static Actions {
    static PARSED: OnceLock<(Actions, Actions)> = OnceLock::new();
    let (web, git) = PARSED.get_or_init(parse);
    match lane {
        Lane::Web | Lane::GraphQl => web,
        Lane::Git => git,
    }
}

fn parse() -> (Actions, Actions) {
    let (mut web, mut git) = (Actions::default(), Actions::default());
    let mut fields = Vec::new();
    for line in ACTIONS.lines() {
        let mut columns = line.split('\t');
        match (columns.next(), columns.next(), columns.next(), columns.next()) {
            (Some("F"), Some(name), Some(kind), None) => fields.push((name, Kind::of(kind))),
            (Some("A"), Some(name), Some(weight), Some(numbers)) => {
                let own = numbers
                    .split(',')
                    .filter_map(|number| fields.get(number.parse::<usize>().ok()?).copied())
                    .collect();
                let lane = if name.starts_with("git.") { &mut git } else { &mut web };
                lane.push(name, weight.parse().unwrap_or(1), own);
            }
            _ => {}
        }
    }
    (web, git)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_data_is_read() {
        let lines = ACTIONS.lines().filter(|line| line.starts_with("A\t")).count();
        let read = actions(Lane::Web).0.len() + actions(Lane::Git).0.len();
        assert_eq!((lines, actions(Lane::Git).0.len()), (read, 3));
        let create = actions(Lane::Web).0.iter().find(|a| a.name == "pull_request.create").unwrap();
        assert!(create.fields.contains(&("pull_request_title", Kind::Sentence)));
    }

    #[test]
    fn a_draw_picks_by_weight() {
        let web = actions(Lane::Web);
        let picks = (0..web.0.last().unwrap().weight_end)
            .filter(|draw| web.pick(*draw).unwrap().name == "pull_request.create");
        assert_eq!(picks.count(), 320);
    }
}
