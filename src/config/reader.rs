//! Reads values out of the merged tree and collects every fault instead of stopping at the first.
//!
//! A [`Table`] remembers which keys it was asked for; what is left over is unknown, and the nearest known key is named.

use super::fault::Fault;
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};
use ::config::{Map, Value, ValueKind};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What the crate `config` calls the source of overriding variables.
const FROM_ENVIRONMENT: &str = "the environment";

/// Collects what a reading finds.
#[derive(Default)]
pub(super) struct Report {
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    /// Every key that was asked for, with `NAME` where the operator chooses a name.
    known: RefCell<BTreeSet<String>>,
    /// Unknown keys: full path, key, and the keys known beside it.
    unknown: RefCell<Vec<(String, String, Vec<String>)>>,
}

impl Report {
    /// Adds a fault.
    pub(super) fn fault(
        &self,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.faults.borrow_mut().push(Fault {
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// Adds a warning.
    pub(super) fn warning(
        &self,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.borrow_mut().push(Fault {
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// Everything found: faults, warnings, and all known keys.
    pub(super) fn finish(self) -> (Vec<Fault>, Vec<Fault>, BTreeSet<String>) {
        let known = self.known.into_inner();
        let mut faults = self.faults.into_inner();
        let mut unknown = self.unknown.into_inner();
        unknown.sort();
        faults.extend(
            unknown.into_iter().map(|(path, key, beside)| unknown_key(&known, path, &key, &beside)),
        );
        (faults, self.warnings.into_inner(), known)
    }
}

/// The known word that is likely to be meant.
pub(super) fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a String>,
) -> Option<&'a String> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Names the nearest known key: beside the unknown one, else the same word elsewhere.
fn unknown_key(known: &BTreeSet<String>, path: String, key: &str, beside: &[String]) -> Fault {
    let elsewhere = || known.iter().find(|path| path.rsplit('.').next() == Some(key));
    let remedy = if let Some(candidate) = nearest(key, beside) {
        format!("did you mean `{candidate}`?")
    } else if let Some(elsewhere) = elsewhere() {
        format!("did you mean `{elsewhere}`?")
    } else {
        format!("known here: {}", beside.join(", "))
    };
    Fault { key: path, problem: "this key is not known".to_owned(), remedy }
}

/// A table of the tree, or the place where one could be.
pub(super) struct Table<'a> {
    path: String,
    pattern: String,
    values: Option<&'a Map<String, Value>>,
    /// Whether a fault about this table stands already: what is missing in it is then no news.
    broken: bool,
    asked: BTreeSet<&'static str>,
    /// The collector.
    pub(super) report: &'a Report,
}

impl<'a> Table<'a> {
    /// The whole tree.
    pub(super) fn root(value: &'a Value, report: &'a Report) -> Self {
        let values = match &value.kind {
            ValueKind::Table(values) => Some(values),
            _ => None,
        };
        Self {
            path: String::new(),
            pattern: String::new(),
            values,
            broken: false,
            asked: BTreeSet::new(),
            report,
        }
    }

    /// The full path of a key, as the operator knows it.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Whether the key has a value. Does not make the key known.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.is_some_and(|values| values.contains_key(key))
    }

    /// Adds a fault about a key of this table.
    pub(super) fn fault(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.report.fault(self.path_of(key), problem, remedy);
    }

    /// Says that a key that must be there is not.
    pub(super) fn missing(&self, key: &str, remedy: impl Into<String>) {
        if !self.broken {
            self.fault(key, "is missing", remedy);
        }
    }

    fn raw(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.insert(key);
        self.report.known.borrow_mut().insert(join(&self.pattern, key));
        self.values?.get(key).filter(|value| !matches!(value.kind, ValueKind::Nil))
    }

    fn wrong_type(&self, key: &str, expected: &str, found: &Value) {
        self.fault(
            key,
            format!("must be {expected}, but is {}", kind(found)),
            format!("write {expected}"),
        );
    }

    /// Takes a key that is not allowed here without making it known: its fault names the way out.
    pub(super) fn refuse(&mut self, key: &'static str, problem: &str, remedy: &str) {
        self.asked.insert(key);
        if self.has(key) {
            self.fault(key, problem, remedy);
        }
    }

    /// Text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.raw(key)?;
        match &value.kind {
            ValueKind::String(text) if text.trim().is_empty() => {
                self.fault(key, "is empty", "write a value or take the key out");
                None
            }
            ValueKind::String(text) => Some(text.clone()),
            _ => {
                self.wrong_type(key, "text in quotes", value);
                None
            }
        }
    }

    /// Text, or a whole number as text.
    pub(super) fn text_or_number(&mut self, key: &'static str) -> Option<String> {
        match self.raw(key).map(|value| &value.kind) {
            Some(ValueKind::I64(number)) => Some(number.to_string()),
            _ => self.text(key),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.raw(key) else { return default };
        match &value.kind {
            ValueKind::Boolean(truth) => *truth,
            ValueKind::String(text) if from_environment(value) && text == "true" => true,
            ValueKind::String(text) if from_environment(value) && text == "false" => false,
            _ => {
                self.wrong_type(key, "true or false", value);
                default
            }
        }
    }

    /// A whole number within a range; `None` when the key is not there or at fault.
    pub(super) fn integer<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let value = self.raw(key)?;
        let number = match &value.kind {
            ValueKind::I64(number) => Some(*number),
            ValueKind::String(text) if from_environment(value) => text.trim().parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            self.wrong_type(key, "a whole number", value);
            return None;
        };
        match T::try_from(number) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.out_of_range(key, number, range.start(), range.end());
                None
            }
        }
    }

    fn out_of_range(
        &self,
        key: &str,
        found: impl Display,
        least: impl Display,
        most: impl Display,
    ) {
        self.fault(key, format!("is {found}, out of range"), format!("write {least} to {most}"));
    }

    /// A duration within a range.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = self.raw(key)?;
        let ValueKind::String(text) = &value.kind else {
            self.wrong_type(key, "a duration in quotes, such as \"10m\" or \"180d\"", value);
            return None;
        };
        self.duration_of(key, text, &range)
    }

    fn duration_of(
        &mut self,
        key: &'static str,
        text: &str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        match parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(duration) => {
                let show = |edge: &Duration| format!("{:?}", show_duration(*edge));
                self.out_of_range(key, show(&duration), show(range.start()), show(range.end()));
                None
            }
            Err(problem) => {
                self.fault(
                    key,
                    format!("{text:?} is {problem}"),
                    "write a number with a unit: \"30s\", \"10m\", \"12h\", \"180d\"",
                );
                None
            }
        }
    }

    /// A duration, or `"unlimited"`: `None`. The default holds where the key is not there or at fault.
    pub(super) fn duration_or_unlimited(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let unlimited =
            |value: &Value| matches!(&value.kind, ValueKind::String(text) if text == "unlimited");
        if self.raw(key).is_some_and(unlimited) {
            return None;
        }
        self.duration(key, range).or(default)
    }

    /// A list of durations within a range, or one duration.
    pub(super) fn durations(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Vec<Duration>> {
        let texts = self.texts(key)?;
        let texts = texts.iter().filter(|text| !text.is_empty());
        // every fault is told, so none ends the list
        let read: Vec<_> = texts.map(|text| self.duration_of(key, text, &range)).collect();
        read.into_iter().collect()
    }

    /// A size in bytes within a range.
    pub(super) fn bytes(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<usize> {
        let value = self.raw(key)?;
        let ValueKind::String(text) = &value.kind else {
            self.wrong_type(key, "a size in quotes, such as \"8MiB\"", value);
            return None;
        };
        match parse_bytes(text) {
            Ok(bytes) if range.contains(&bytes) => usize::try_from(bytes).ok(),
            Ok(bytes) => {
                let show = |edge: u64| format!("{:?}", show_bytes(edge));
                self.out_of_range(key, show(bytes), show(*range.start()), show(*range.end()));
                None
            }
            Err(problem) => {
                self.fault(
                    key,
                    format!("{text:?} is {problem}"),
                    "write a whole number with a unit: \"500kB\", \"64KiB\", \"8MiB\"",
                );
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.fault(
                key,
                format!("{text:?} is not known"),
                format!("write one of {}", all.join(", ")),
            );
        }
        found
    }

    /// A list of words, or one word.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.raw(key)?;
        let texts = match &value.kind {
            ValueKind::String(text) => {
                Some(text.split(',').map(|part| part.trim().to_owned()).collect())
            }
            ValueKind::Array(values) => values
                .iter()
                .map(|value| match &value.kind {
                    ValueKind::String(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        if texts.is_none() {
            self.wrong_type(key, "text in quotes, or a list of texts", value);
        }
        texts
    }

    /// An absolute path.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(key)?);
        if path.is_absolute() {
            return Some(path);
        }
        self.fault(
            key,
            "is not an absolute path",
            "write the path from / on: a service does not run in the folder you expect",
        );
        None
    }

    /// A table within this one.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'a> {
        let value = self.raw(key);
        let pattern = join(&self.pattern, key);
        self.inner(self.path_of(key), pattern, value)
    }

    /// The tables of a list of tables, each with a label for messages; `None` when it is at fault.
    pub(super) fn list(&mut self, key: &'static str) -> Option<Vec<Table<'a>>> {
        let Some(value) = self.raw(key) else { return Some(Vec::new()) };
        let ValueKind::Array(values) = &value.kind else {
            self.wrong_type(key, &format!("a list of tables: [[{key}]]"), value);
            return None;
        };
        let pattern = join(&self.pattern, key);
        let labelled = values.iter().zip(1_usize..).map(|(value, number)| {
            let label = name_in(value).unwrap_or_else(|| format!("#{number}"));
            self.inner(format!("{}[{label}]", self.path_of(key)), pattern.clone(), Some(value))
        });
        Some(labelled.collect())
    }

    /// The tables within the table `key`, by their names, sorted.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<(String, Table<'a>)> {
        let outer = self.table(key);
        let Some(values) = outer.values else { return Vec::new() };
        let mut names: Vec<_> = values.keys().collect();
        names.sort();
        let tables = names.into_iter().map(|name| {
            let pattern = format!("{}.NAME", outer.pattern);
            (name.clone(), outer.inner(outer.path_of(name), pattern, values.get(name)))
        });
        tables.collect()
    }

    /// The free texts within the table `key`: dotted keys may be quoted or not. With each: whether the environment set it,
    /// which then replaces what the file says.
    pub(super) fn free(&mut self, key: &'static str) -> Vec<(String, String, bool)> {
        let mut found = Vec::new();
        let outer = self.table(key);
        if let Some(values) = outer.values {
            flatten(&outer, "", values, &mut found);
        }
        // a variable has dots where the file may have quoted them: the same key all the same, and the variable wins
        found.sort_by(|a, b| (&a.0, !a.2).cmp(&(&b.0, !b.2)));
        found.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same && !first.2 {
                let problem = "stands twice: once in quotes, once with plain dots";
                outer.fault(&format!("{:?}", later.0), problem, "keep one of them");
            }
            same
        });
        found
    }

    fn inner(&self, path: String, pattern: String, value: Option<&'a Value>) -> Table<'a> {
        let (values, broken) = match value.map(|value| &value.kind) {
            Some(ValueKind::Table(values)) => (Some(values), false),
            Some(_) => (None, true),
            None => (None, self.broken),
        };
        if let (Some(value), None) = (value, values) {
            let problem = format!("must be a table, but is {}", kind(value));
            self.report.fault(path.clone(), problem, how_to_write_a_table(&path));
        }
        Table { path, pattern, values, broken, asked: BTreeSet::new(), report: self.report }
    }

    /// Ends the reading of this table: what was not asked for is unknown.
    pub(super) fn finish(self) {
        let Some(values) = self.values else { return };
        let beside: Vec<String> = self.asked.iter().map(|key| (*key).to_owned()).collect();
        for key in values.keys().filter(|key| !self.asked.contains(key.as_str())) {
            let unknown = (self.path_of(key), key.clone(), beside.clone());
            self.report.unknown.borrow_mut().push(unknown);
        }
    }
}

fn flatten(
    table: &Table<'_>,
    prefix: &str,
    values: &Map<String, Value>,
    found: &mut Vec<(String, String, bool)>,
) {
    for (key, value) in values {
        let name = join(prefix, key);
        let text = match &value.kind {
            ValueKind::Table(inner) => {
                flatten(table, &name, inner, found);
                continue;
            }
            ValueKind::String(text) => text.clone(),
            ValueKind::I64(number) => number.to_string(),
            ValueKind::Boolean(truth) => truth.to_string(),
            _ => {
                table.wrong_type(&name, "text in quotes", value);
                continue;
            }
        };
        found.push((name, text, from_environment(value)));
    }
}

/// A table within a list cannot have a header of its own in the way its path is shown.
fn how_to_write_a_table(path: &str) -> String {
    match path.split_once('[') {
        None => format!("write [{path}] and its keys below it"),
        Some((list, rest)) => match rest.rsplit_once('.') {
            None => format!("write [[{list}]] and its keys below it"),
            Some((_, key)) => format!("write its keys as {key}.KEY = VALUE"),
        },
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn from_environment(value: &Value) -> bool {
    value.origin() == Some(FROM_ENVIRONMENT)
}

/// The `name` of a table in a list, where it is fit for a message.
fn name_in(value: &Value) -> Option<String> {
    let ValueKind::Table(values) = &value.kind else { return None };
    match &values.get("name")?.kind {
        ValueKind::String(name) => {
            crate::audit::EntityName::try_from(name.clone()).ok().map(String::from)
        }
        _ => None,
    }
}

/// What a value is. Texts are not shown: one may be a secret in the wrong place.
fn kind(value: &Value) -> String {
    match &value.kind {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Boolean(truth) => truth.to_string(),
        ValueKind::I64(number) => format!("the number {number}"),
        ValueKind::Float(number) => format!("the number {number}"),
        ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a number".to_owned(),
        ValueKind::String(_) => "a text".to_owned(),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
    }
}
