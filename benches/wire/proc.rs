//! What the kernel says of a process: its CPU time.

use crate::Fallible;
use std::time::Duration;

/// Ticks of /proc per second, as on every Linux that Rust runs on (`USER_HZ`).
const TICKS_PER_SECOND: u32 = 100;

/// CPU time that a process has used up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu(Duration);

impl Cpu {
    /// User and system time of a process with all its threads, those that have ended too.
    pub(crate) fn of(pid: u32) -> Fallible<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in brackets may hold anything; what follows the last bracket are plain fields, the third first.
        let (_, rest) = stat.rsplit_once(')').ok_or("/proc/PID/stat without a name")?;
        let field = |number: usize| -> Fallible<u32> {
            Ok(rest.split_whitespace().nth(number - 3).ok_or("/proc/PID/stat is short")?.parse()?)
        };
        let ticks = field(14)? + field(15)?;
        Ok(Self(Duration::from_secs(ticks.into()) / TICKS_PER_SECOND))
    }

    /// What was used between `before` and this reading.
    pub(crate) fn since(self, before: Self) -> Duration {
        self.0.saturating_sub(before.0)
    }

    /// Of several processes together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
