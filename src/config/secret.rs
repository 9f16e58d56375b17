//! The password of the sidecar's own user: from a file or from the environment, never shown.

use super::StoreConfig;
use std::fmt;
use std::path::PathBuf;

/// A password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The password itself, for the one place that hands it to the driver.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The password could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("store.password_file: {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The environment does not have the variable, or it is not UTF-8.
    #[error("store.password_env: the environment has no variable `{0}` (or it is not UTF-8)")]
    Env(String),
    /// The password is empty.
    #[error("the password of store.username is empty")]
    Empty,
}

impl StoreConfig {
    /// Reads the password; `None`: the settings name none.
    ///
    /// # Errors
    /// The file or the variable that the settings name is missing or empty.
    pub fn password(&self) -> Result<Option<Secret>, SecretError> {
        let text = if !self.password_file.as_os_str().is_empty() {
            let path = &self.password_file;
            let whole =
                std::fs::read_to_string(path).map_err(|source| SecretError::File { path: path.clone(), source })?;
            whole.lines().next().unwrap_or_default().to_owned()
        } else if !self.password_env.is_empty() {
            std::env::var(&self.password_env).ok().ok_or_else(|| SecretError::Env(self.password_env.clone()))?
        } else {
            return Ok(None);
        };
        if text.is_empty() { Err(SecretError::Empty) } else { Ok(Some(Secret(text))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_the_file_is_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        std::fs::write(&path, "s3cret\n").unwrap();
        let store = StoreConfig { password_file: path.clone(), ..StoreConfig::default() };
        let secret = store.password().unwrap().unwrap();
        assert_eq!((secret.reveal(), format!("{secret:?}").as_str()), ("s3cret", "Secret(…)"));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(store.password(), Err(SecretError::Empty)));
        assert_eq!(StoreConfig::default().password().unwrap(), None);
    }
}
