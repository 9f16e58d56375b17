//! `options` and `options_file` of a sink: name and value, the file's after the settings', so that it wins.
//!
//! Promises: no value is ever shown; an error names the file, the line's number and the name.

use super::{Setting, SinkError};
use crate::config::SinkConfig;
use std::fmt;

/// Options in the order in which they take effect. `Debug` shows the names alone.
#[derive(Clone, Default)]
pub(super) struct Options(Vec<(String, String)>);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Options {
    /// Reads them. The file is read anew for each opening, so that new credentials need no restart.
    pub(super) fn read(setting: &Setting, config: &SinkConfig) -> Result<Self, SinkError> {
        let mut all: Vec<_> = config.options.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let path = &config.options_file;
        if !path.as_os_str().is_empty() {
            let at = || format!("sinks.{}.options_file: {}", setting.name, path.display());
            let bytes = setting.disk.read(path).map_err(|error| SinkError::Refused(format!("{}: {error}", at())))?;
            let text = String::from_utf8_lossy(&bytes);
            all.extend(
                lines(&text)
                    .map_err(|line| SinkError::Refused(format!("{}: line {line}: expected `name=value`", at())))?,
            );
        }
        Ok(Self(all))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// `name=value` a line; empty lines and those that begin with `#` are skipped. An error: the number of a line, from 1.
fn lines(text: &str) -> Result<Vec<(String, String)>, usize> {
    let told = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    told.map(|(number, line)| {
        let (name, value) = line.split_once('=').ok_or(number + 1)?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use std::sync::Arc;

    #[test]
    fn a_file_of_options() {
        let dir = tempfile::tempdir().unwrap();
        let setting = Setting { name: "x", log: crate::types::LogId([1; 16]), disk: Arc::new(OsDisk) };
        let path = dir.path().join("options");
        std::fs::write(&path, "# for the bucket\n\nkey = a=b==\nother=2\n").unwrap();
        let config = SinkConfig {
            options: [("key".to_owned(), "old".to_owned())].into(),
            options_file: path.clone(),
            ..SinkConfig::default()
        };
        let options = Options::read(&setting, &config).unwrap();
        assert_eq!(options.iter().collect::<Vec<_>>(), [("key", "old"), ("key", "a=b=="), ("other", "2")]);
        assert_eq!(format!("{options:?}"), "[\"key\", \"key\", \"other\"]");
        std::fs::write(&path, "good=1\nSECRET\n").unwrap();
        let error = Options::read(&setting, &config).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("sinks.x.options_file") && !error.contains("SECRET"),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Options::read(&setting, &config), Err(SinkError::Refused(_))));
    }
}
