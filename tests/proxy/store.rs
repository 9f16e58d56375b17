//! A real store for one test: started on a free port in a folder of its own, killed with the test.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running store.
pub(crate) struct Store {
    child: Child,
    pub(crate) address: String,
    _folder: tempfile::TempDir,
}

impl Store {
    /// Starts it with further flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(binary())
            .args(["--host", "127.0.0.1", "--port", "0", "--storage-path"])
            .arg(folder.path())
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the store starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let address = loop {
            let line = lines.next().expect("the store says where it listens").expect("a line");
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().to_owned();
            }
        };
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _folder: folder }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `$TIDELOG_STORE_BIN`, or where the set-up script puts it. A test without a store fails loudly.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDELOG_STORE_BIN") {
        return path.into();
    }
    let tools = std::env::var_os("TIDELOG_TOOLS")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/tidelog"), PathBuf::from);
    let path = tools.join("bin/secantusd-rs");
    assert!(path.is_file(), "no store at {}: run deploy/test.sh, or set TIDELOG_STORE_BIN", path.display());
    path
}
