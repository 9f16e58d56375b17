//! The table as files: the commented example and the reference page. A test compares both with what lies in `deploy/`.

use super::sink_table::{self, SINK_SETTINGS, SinkSetting};
use super::{Config, Kind, SETTINGS};
use serde_json::Value;
use std::fmt::Write as _;

/// The default of a setting as it is written in TOML.
fn default_of(path: &str, defaults: &Value) -> String {
    let pointer = format!("/{}", path.replace('.', "/"));
    // Of the kinds in the table, JSON and TOML write all but tables alike.
    defaults.pointer(&pointer).map_or_else(String::new, Value::to_string)
}

fn defaults() -> Value {
    serde_json::to_value(Config::default()).unwrap_or_default()
}

/// `deploy/tidelog.example.toml`: every setting with its help, range and default.
pub fn example_file() -> String {
    let defaults = defaults();
    let mut out = String::from(
        "# Tidelog: every setting, with its default. Printed by `tidelog docs example`.\n# Flags of `tidelog run` win over \
         this file; `--set section.name=value` sets any of them. Check it: `tidelog check --config FILE`.\n",
    );
    let mut section = "";
    let mut tables = String::new();
    for setting in SETTINGS {
        let (of, name) = setting.path.split_once('.').unwrap_or(("", setting.path));
        if of != section {
            out.push_str(&std::mem::take(&mut tables));
            say(&mut out, format_args!("\n[{of}]\n"));
            section = of;
        }
        let help = comment(setting.help);
        if setting.kind == Kind::Hosts {
            // A table ends the plain values of its section, so it stands after them.
            tables = format!("{help}[{}]\n# \"db2.internal:27017\" = \"db2.internal:27117\"\n", setting.path);
            continue;
        }
        let range = match setting.kind {
            Kind::Number(..) | Kind::Choice(_) => format!("# {}.\n", capital(&setting.kind.expected())),
            _ => String::new(),
        };
        say(&mut out, format_args!("{help}{range}{name} = {}\n", default_of(setting.path, &defaults)));
    }
    out.push_str(&tables);
    out.push_str(
        "\n# More places that get windows, each under a name of its own. The reference page has all their settings.\n",
    );
    out.push_str("# [sinks.lake]\n");
    for setting in SINK_SETTINGS {
        say(&mut out, format_args!("# {} = {}\n", setting.name, sink_table::default_of(setting.name)));
    }
    out
}

/// Writing into a String cannot fail.
fn say(out: &mut String, text: std::fmt::Arguments<'_>) {
    if out.write_fmt(text).is_err() {
        out.push('\u{fffd}');
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Breaks a text into comment lines of at most 110 columns.
fn comment(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let long = word.chars().count() + 1;
        if width == 0 || width + long > 110 {
            out.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        out.push(' ');
        out.push_str(word);
        width += long;
    }
    out.push('\n');
    out
}

/// The reference page `deploy/docs/settings.md`.
pub fn reference_page() -> String {
    let defaults = defaults();
    let mut out = String::from(
        "# Settings\n\nThe settings file is TOML. Flags of `tidelog run` win over the file, the file wins over the defaults; \
         `--set section.name=value`\nsets any of them. This page is printed by `tidelog docs settings`; a test compares it with \
         the table in the code.\n\n| setting | takes | default | flag | what it does |\n|---|---|---|---|---|\n",
    );
    for setting in SETTINGS {
        let default = if setting.kind == Kind::Hosts { String::new() } else { default_of(setting.path, &defaults) };
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        say(
            &mut out,
            format_args!(
                "| `{}` | {} | {} | {} | {} |\n",
                setting.path,
                setting.kind.expected(),
                code(&default),
                code(setting.flag),
                setting.help
            ),
        );
    }
    out.push_str(
        "\n## Sinks\n\n`export.dir` is the sink `folder`. More sinks stand in the file as `[sinks.NAME]`; each has its own checkpoint, \
         form, namespaces and pace,\nand one that fails holds up no other.\n\n| setting | types | takes | default | what it does |\n|---|---|---|---|---|\n",
    );
    for SinkSetting { name, of, takes, help } in SINK_SETTINGS {
        let default = sink_table::default_of(name);
        say(&mut out, format_args!("| `{name}` | {of} | {takes} | `{default}` | {help} |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_has_every_setting_and_no_other() {
        let mut fields = BTreeSet::new();
        for (section, values) in defaults().as_object().unwrap() {
            fields.extend(values.as_object().unwrap().keys().map(|name| format!("{section}.{name}")));
        }
        let table: BTreeSet<_> = SETTINGS.iter().map(|s| s.path.to_owned()).collect();
        assert_eq!(table, fields);
        assert_eq!(SETTINGS.len(), fields.len(), "a setting stands twice");
    }

    #[test]
    fn the_example_says_the_defaults() {
        let parsed: Config = toml::from_str(&example_file()).unwrap();
        assert_eq!(parsed, Config::default());
    }
}
