//! The names of the sinks: values of a label that are known only when the settings were read.

use parking_lot::RwLock;

static NAMES: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

/// Makes a sink's name a value of the label `sink`, for the life of the process; tells it back. Settings bound how many
/// there are; a name past the cells of a metric is counted with the last.
pub fn sink_name(name: &str) -> &'static str {
    let mut names = NAMES.write();
    if let Some(known) = names.iter().find(|known| **known == name) {
        return known;
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.push(name);
    name
}

/// All of them; before any was told, the one that is there by default.
pub(super) fn names() -> Vec<&'static str> {
    let names = NAMES.read();
    if names.is_empty() { vec!["folder"] } else { names.clone() }
}

pub(super) fn slot(name: &str) -> Option<usize> {
    let names = NAMES.read();
    if names.is_empty() { (name == "folder").then_some(0) } else { names.iter().position(|known| *known == name) }
}
