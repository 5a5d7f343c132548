//! The process's environment: the only place that reads it.

use std::collections::BTreeMap;

/// Prefix of the variables that override the file: `GHAUDITD__SECTION__KEY`.
pub(super) const OVERRIDE_PREFIX: &str = "GHAUDITD__";

/// Variables of a process. May hold secrets, so it has no `Debug`.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's variables. Those that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let text = |part: std::ffi::OsString| part.into_string().ok();
        Self(std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?))).collect())
    }

    /// A variable; one that is empty counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The login name of whoever runs this: before `sudo`, where that was used. A hint for people, no proof.
    pub fn user(&self) -> String {
        let names = ["SUDO_USER", "USER", "LOGNAME"];
        let named = names.iter().find_map(|name| self.get(name));
        // cron and containers often have no name in the environment
        let uid = || format!("uid {}", rustix::process::getuid().as_raw());
        named.map_or_else(uid, str::to_owned)
    }

    /// The variables that override the file.
    pub(super) fn overrides(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter(|(name, _)| name.starts_with(OVERRIDE_PREFIX))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_used_sudo_is_named() {
        let user =
            |variables: &[(&str, &str)]| variables.iter().copied().collect::<Environment>().user();
        assert_eq!(user(&[("SUDO_USER", "alice"), ("USER", "root")]), "alice");
        assert_eq!(user(&[("SUDO_USER", ""), ("USER", "root")]), "root");
        assert_eq!(user(&[("LOGNAME", "bob")]), "bob");
        assert!(user(&[]).starts_with("uid "));
    }
}
