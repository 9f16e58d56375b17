//! Reads the file, lays the flags over it, and says everything that is wrong with the result.

use super::{Address, Config, Kind, MAX_SINKS, SETTINGS, markers, sinks};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// A setting given by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What was typed, for messages: `--listen`.
    pub flag: String,
    /// `section.name`, or `proxy.hosts."node:port"` written as `proxy.hosts` with `key`.
    pub path: String,
    /// The node, for `proxy.hosts`.
    pub key: Option<String>,
    /// The value as typed.
    pub value: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `FILE:LINE:COLUMN`, a flag, or `default`.
    pub place: String,
    /// The setting; empty where the file cannot be read that far.
    pub setting: String,
    /// What was found and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.setting.as_str() {
            "" => write!(f, "{}: {}", self.place, self.message),
            setting => write!(f, "{}: {setting}: {}", self.place, self.message),
        }
    }
}

/// The settings do not hold.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is wrong, at least one thing.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problem>),
}

/// The settings of `file` (or the defaults) with `overrides` laid over them.
///
/// # Errors
/// The file cannot be read, or something in it, in a flag or among them is wrong.
pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Config, ConfigError> {
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?
        }
        None => String::new(),
    };
    let source = Source { name: file.map(|p| p.display().to_string()), text: &text, overrides };
    let parsed: Config = toml::from_str(&text).map_err(|e| ConfigError::Wrong(vec![source.of_toml(&e)]))?;
    let config = lay_over(parsed, overrides)?;
    let mut problems: Vec<_> = check(&config)
        .into_iter()
        .map(|(setting, message)| Problem { place: source.place(setting), setting: setting.into(), message })
        .collect();
    problems.extend(check_sinks(&config, &source));
    problems.extend(check_markers(&config, &source));
    if problems.is_empty() { Ok(config) } else { Err(ConfigError::Wrong(problems)) }
}

/// Where settings came from.
struct Source<'a> {
    name: Option<String>,
    text: &'a str,
    overrides: &'a [Override],
}

impl Source<'_> {
    fn file_place(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{line}:{column}", self.name.as_deref().unwrap_or("settings"))
    }

    fn of_toml(&self, error: &toml::de::Error) -> Problem {
        let place = self.file_place(error.span().map_or(0, |span| span.start));
        Problem { place, setting: String::new(), message: error.message().replace('\n', ", ") }
    }

    /// Where a setting has its value from.
    fn place(&self, setting: &str) -> String {
        if let Some(over) = self.overrides.iter().rev().find(|o| o.path == setting) {
            return over.flag.clone();
        }
        match self.span(setting) {
            Some(at) => self.file_place(at),
            None => "default".into(),
        }
    }

    /// Where a setting stands in the file, or else the table that it would stand in.
    fn span(&self, setting: &str) -> Option<usize> {
        let whole = toml::de::DeTable::parse(self.text).ok()?.into_inner();
        let mut names = setting.split('.');
        let mut value = whole.get(names.next()?)?;
        for name in names {
            match value.get_ref().as_table().and_then(|table| table.get(name)) {
                Some(inner) => value = inner,
                None if setting.starts_with("sinks.") || setting.starts_with("markers.") => break,
                None => return None,
            }
        }
        Some(value.span().start)
    }
}

/// Lays flags over what the file said.
fn lay_over(config: Config, overrides: &[Override]) -> Result<Config, ConfigError> {
    let mut config = config;
    let mut problems = Vec::new();
    for over in overrides {
        match lay_one(&config, over) {
            Ok(next) => config = next,
            Err(message) => {
                problems.push(Problem { place: over.flag.clone(), setting: over.path.clone(), message });
            }
        }
    }
    if problems.is_empty() { Ok(config) } else { Err(ConfigError::Wrong(problems)) }
}

fn lay_one(config: &Config, over: &Override) -> Result<Config, String> {
    let setting = SETTINGS.iter().find(|s| s.path == over.path);
    let setting = setting.ok_or_else(|| "unknown setting; `tidelog docs settings` prints all of them".to_owned())?;
    let wrong = || format!("found `{}`, expected {}", over.value, setting.kind.expected());
    let value = match setting.kind {
        Kind::Number(..) => over.value.replace('_', "").parse::<u64>().map(Value::from).ok().ok_or_else(wrong)?,
        Kind::Flag => over.value.parse::<bool>().map(Value::from).ok().ok_or_else(wrong)?,
        _ => Value::from(over.value.as_str()),
    };
    let mut all = serde_json::to_value(config).map_err(|e| e.to_string())?;
    let slot = all.pointer_mut(&format!("/{}", over.path.replace('.', "/")));
    match (slot, &over.key) {
        (Some(Value::Object(hosts)), Some(node)) => {
            let _: Address = node.parse()?;
            hosts.insert(node.clone(), value);
        }
        (Some(slot), None) if setting.kind != Kind::Hosts => *slot = value,
        _ => return Err("found a plain value, expected `NODE=ADDRESS`; use --host".into()),
    }
    serde_json::from_value(all).map_err(|e| match setting.kind {
        Kind::Address | Kind::OptionalAddress | Kind::Hosts => e.to_string(),
        _ => wrong(),
    })
}

/// Ranges from the table, then what settings ask of each other.
fn check(config: &Config) -> Vec<(&'static str, String)> {
    let all = serde_json::to_value(config).unwrap_or_default();
    let mut bad = Vec::new();
    for setting in SETTINGS {
        let value = all.pointer(&format!("/{}", setting.path.replace('.', "/")));
        let held = match (setting.kind, value) {
            (Kind::Number(min, max), Some(value)) => value.as_u64().is_some_and(|n| (min..=max).contains(&n)),
            (Kind::Path, Some(value)) => value.as_str().is_some_and(|path| !path.is_empty()),
            _ => true,
        };
        if let (false, Some(value)) = (held, value) {
            bad.push((setting.path, format!("found {value}, expected {}", setting.kind.expected())));
        }
    }
    bad.extend(check_proxy(config));
    bad.extend(check_store(config));
    bad.extend(check_rest(config));
    bad
}

fn check_markers(config: &Config, source: &Source<'_>) -> Vec<Problem> {
    let mut bad = Vec::new();
    for (name, marker) in &config.markers {
        let of = format!("markers.{name}");
        for (setting, message) in markers::check(name, marker) {
            let setting = if setting.is_empty() { of.clone() } else { format!("{of}.{setting}") };
            bad.push(Problem { place: source.place(&setting), setting, message });
        }
    }
    bad
}

fn check_sinks(config: &Config, source: &Source<'_>) -> Vec<Problem> {
    let mut bad = Vec::new();
    for (name, sink) in &config.sinks {
        let of = format!("sinks.{name}");
        for (setting, message) in sinks::check(name, sink) {
            let setting = if setting.is_empty() { of.clone() } else { format!("{of}.{setting}") };
            bad.push(Problem { place: source.place(&setting), setting, message });
        }
        if sink.dir == config.log.data || sink.dir == config.export.dir && !sink.dir.as_os_str().is_empty() {
            let (setting, found) = (format!("{of}.dir"), sink.dir.display());
            let message = format!("found {found}, which is `log.data` or `export.dir`; expected a folder of its own");
            bad.push(Problem { place: source.place(&setting), setting, message });
        }
    }
    let more = config.sinks.len();
    if more > MAX_SINKS {
        let message = format!("found {more}, expected at most {MAX_SINKS}");
        bad.push(Problem { place: source.place("sinks"), setting: "sinks".into(), message });
    }
    bad
}

fn check_proxy(config: &Config) -> Vec<(&'static str, String)> {
    let (proxy, mut bad) = (&config.proxy, Vec::new());
    if proxy.listen == proxy.upstream {
        bad.push(("proxy.upstream", format!("found {}, which is `proxy.listen`; expected the node", proxy.upstream)));
    }
    if proxy.upstream.port() == 0 {
        bad.push(("proxy.upstream", format!("found {}, expected a port other than 0", proxy.upstream)));
    }
    if let Some(found) = proxy.advertise.as_ref().filter(|a| a.is_unspecified() || a.port() == 0) {
        bad.push(("proxy.advertise", format!("found {found}, expected an address that clients can connect to")));
    }
    bad
}

fn check_store(config: &Config) -> Vec<(&'static str, String)> {
    let (store, mut bad) = (&config.store, Vec::new());
    let authority = store.uri.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""));
    if !store.uri.is_empty() && !store.uri.starts_with("mongodb://") && !store.uri.starts_with("mongodb+srv://") {
        bad.push(("store.uri", "expected it to begin with `mongodb://` or `mongodb+srv://`".into()));
    }
    if authority.contains('@') {
        bad.push((
            "store.uri",
            "holds credentials; expected none: use `store.username` and `store.password_file`".into(),
        ));
    }
    let (by_file, by_env) = (!store.password_file.as_os_str().is_empty(), !store.password_env.is_empty());
    if by_file && by_env {
        bad.push(("store.password_env", "found beside `store.password_file`, expected only one of them".into()));
    }
    if (by_file || by_env) && store.username.is_empty() {
        bad.push(("store.username", "found \"\", expected the user that the password belongs to".into()));
    }
    if !store.username.is_empty() && !by_file && !by_env {
        bad.push((
            "store.username",
            "expected a password with it: `store.password_file` or `store.password_env`".into(),
        ));
    }
    bad
}

fn check_rest(config: &Config) -> Vec<(&'static str, String)> {
    let mut bad = Vec::new();
    if !config.admin.listen.is_loopback() && !config.admin.allow_remote {
        let found = &config.admin.listen;
        bad.push((
            "admin.listen",
            format!("found {found}, expected a loopback address, or `admin.allow_remote = true` (there is no authentication)"),
        ));
    }
    if config.admin.listen == config.proxy.listen && config.admin.listen.port() != 0 {
        bad.push(("admin.listen", format!("found {}, which is `proxy.listen`", config.admin.listen)));
    }
    if config.export.dir == config.log.data {
        bad.push(("export.dir", "found the folder of `log.data`, expected another one".into()));
    }
    if config.export.dir.as_os_str().is_empty() && config.sinks.is_empty() {
        bad.push(("export.dir", "found \"\" and no `[sinks.NAME]`: windows would go nowhere".into()));
    }
    let windows = &config.windows;
    if let Some(error) = windows.schedule.parse::<croner::Cron>().err().filter(|_| !windows.schedule.is_empty()) {
        let expected = "expected a cron expression of five fields";
        bad.push(("windows.schedule", format!("found `{}` ({error}), {expected}", windows.schedule)));
    }
    if jiff::tz::TimeZone::get(&windows.time_zone).is_err() {
        bad.push((
            "windows.time_zone",
            format!("found `{}`, expected an IANA name like `Europe/Berlin`", windows.time_zone),
        ));
    }
    let (inflight, message) = (config.limits.inflight_bytes, u64::from(config.limits.message_bytes));
    if inflight < 2 * message {
        bad.push(("limits.inflight_bytes", format!("found {inflight}, expected at least {}", 2 * message)));
    }
    bad
}
