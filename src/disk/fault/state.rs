//! Live and durable bytes, live and durable names, and what a power cut leaves of them.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What a power cut writes or leaves out as a whole.
const SECTOR_BYTES: usize = 512;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Folder,
    File(usize),
}

/// A change of names.
#[derive(Clone, Debug)]
pub(super) enum DirOp {
    Link(PathBuf, Entry),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl DirOp {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => path.parent() == Some(dir),
            Self::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Link(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                let moved: Vec<PathBuf> = names.keys().filter(|p| p.starts_with(from)).cloned().collect();
                for path in moved {
                    let rest = path.strip_prefix(from).unwrap_or(Path::new(""));
                    let target = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    if let Some(entry) = names.remove(&path) {
                        names.insert(target, entry);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Write {
    Bytes { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Write {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Bytes { offset, bytes } => put(file, *offset, bytes),
            Self::Length(len) => file.resize(*len, 0),
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    if let Some(to) = file.get_mut(offset..end) {
        to.copy_from_slice(bytes);
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

impl Node {
    fn after_power_cut(&self, rng: &mut StdRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        match rng.random_range(0..4) {
            0 => {}
            1 => {
                let whole = rng.random_range(0..=self.unsynced.len());
                self.unsynced.iter().take(whole).for_each(|w| w.apply(&mut left));
                if let Some(Write::Bytes { offset, bytes }) = self.unsynced.get(whole) {
                    let torn = rng.random_range(0..=bytes.len());
                    put(&mut left, *offset, bytes.get(..torn).unwrap_or_default());
                }
            }
            2 => self.unsynced.iter().for_each(|w| some_sectors(w, &mut left, rng)),
            _ => left.clone_from(&self.live),
        }
        left
    }
}

fn some_sectors(write: &Write, left: &mut Vec<u8>, rng: &mut StdRng) {
    let Write::Bytes { offset, bytes } = write else { return write.apply(left) };
    let (mut at, mut rest) = (*offset, bytes.as_slice());
    while !rest.is_empty() {
        let (sector, more) = rest.split_at(rest.len().min(SECTOR_BYTES - at % SECTOR_BYTES));
        if rng.random() {
            put(left, at, sector);
        }
        at += sector.len();
        rest = more;
    }
}

#[derive(Debug)]
pub(super) struct State {
    nodes: Vec<Node>,
    pub(super) live: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    unsynced: Vec<DirOp>,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) capacity: u64,
    pub(super) syncs: u64,
    pub(super) fail_at: Option<u64>,
    pub(super) stop_at: Option<u64>,
    stopped: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            locks: BTreeSet::new(),
            capacity: 1 << 40,
            syncs: 0,
            fail_at: None,
            stop_at: None,
            stopped: false,
        }
    }
}

impl State {
    pub(super) fn running(&self) -> io::Result<()> {
        if self.stopped { Err(io::Error::other("the machine stopped (injected)")) } else { Ok(()) }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<usize> {
        match self.live.get(path) {
            Some(Entry::File(number)) => Ok(*number),
            Some(Entry::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn dir(&self, path: &Path) -> io::Result<()> {
        match self.live.get(path) {
            Some(Entry::Folder) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None if path.parent().is_none() => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn node(&mut self, number: usize) -> io::Result<&mut Node> {
        self.nodes.get_mut(number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn free(&self) -> u64 {
        let files = self.live.values().filter_map(|e| match e {
            Entry::File(number) => self.nodes.get(*number),
            Entry::Folder => None,
        });
        self.capacity.saturating_sub(files.map(|n| n.live.len() as u64).sum())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<()> {
        if self.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.dir(path.parent().unwrap_or(Path::new("/")))?;
        self.nodes.push(Node::default());
        self.change(DirOp::Link(path.to_owned(), Entry::File(self.nodes.len() - 1)));
        Ok(())
    }

    pub(super) fn change(&mut self, op: DirOp) {
        op.apply(&mut self.live);
        self.unsynced.push(op);
    }

    pub(super) fn write(&mut self, number: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let free = usize::try_from(self.free()).unwrap_or(usize::MAX);
        let node = self.node(number)?;
        let room = free.saturating_add(node.live.len().saturating_sub(offset));
        let fits = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        let write = Write::Bytes { offset, bytes: fits.to_vec() };
        write.apply(&mut node.live);
        node.unsynced.push(write);
        if fits.len() < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    pub(super) fn truncate(&mut self, number: usize, len: usize) -> io::Result<()> {
        let node = self.node(number)?;
        node.live.resize(len, 0);
        node.unsynced.push(Write::Length(len));
        Ok(())
    }

    /// Counts a sync; false: it must fail now.
    fn count_sync(&mut self) -> io::Result<bool> {
        self.syncs += 1;
        if self.stop_at.is_some_and(|at| self.syncs >= at) {
            self.stopped = true;
        }
        self.running()?;
        Ok(self.fail_at != Some(self.syncs))
    }

    pub(super) fn sync_file(&mut self, number: usize) -> io::Result<()> {
        let good = self.count_sync()?;
        let node = self.node(number)?;
        let writes = std::mem::take(&mut node.unsynced);
        if !good {
            return Err(io::Error::other("sync failed (injected)"));
        }
        for write in writes {
            write.apply(&mut node.durable);
        }
        Ok(())
    }

    /// A failed sync of a folder loses nothing yet: names go through the file system's journal, and when that fails the file
    /// system stops.
    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.count_sync()? {
            return Err(io::Error::other("sync failed (injected)"));
        }
        let (now, later): (Vec<DirOp>, Vec<DirOp>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|op| op.touches(dir));
        self.unsynced = later;
        for op in now {
            op.apply(&mut self.durable);
        }
        Ok(())
    }

    pub(super) fn after_kill(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            live: self.live.clone(),
            durable: self.durable.clone(),
            unsynced: self.unsynced.clone(),
            capacity: self.capacity,
            ..Self::default()
        }
    }

    pub(super) fn after_power_cut(&self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut names = self.durable.clone();
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let left = if seed == 0 { node.durable.clone() } else { node.after_power_cut(&mut rng) };
            nodes.push(Node { live: left.clone(), durable: left, unsynced: Vec::new() });
        }
        if seed != 0 {
            let survive = rng.random_range(0..=self.unsynced.len());
            self.unsynced.iter().take(survive).for_each(|op| op.apply(&mut names));
        }
        // What lies in a folder that is gone is gone.
        let folders = names.clone();
        names.retain(|path, _| {
            path.ancestors().skip(1).all(|p| p.parent().is_none() || folders.get(p) == Some(&Entry::Folder))
        });
        Self { nodes, live: names.clone(), durable: names, capacity: self.capacity, ..Self::default() }
    }
}

/// A position in a file in memory.
pub(super) fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_too_big| io::ErrorKind::FileTooLarge.into())
}
