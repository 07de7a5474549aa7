//! Numbers: medians of pairs, and memory.

use std::time::Duration;

/// What both sides took, pair by pair.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    directly: Vec<Duration>,
    through: Vec<Duration>,
}

impl Pairs {
    /// Adds a pair, if it counts.
    pub(crate) fn add(&mut self, counts: bool, directly: Duration, through: Duration) {
        if counts {
            self.directly.push(directly);
            self.through.push(through);
        }
    }

    /// One line: both medians, their difference, their ratio.
    pub(crate) fn print(&self, name: &str) {
        let (directly, through) = (median_ms(&self.directly), median_ms(&self.through));
        println!("{name:<34} {directly:>9.2} {through:>9.2} {:>+9.2} {:>6.1}×", through - directly, through / directly);
    }
}

fn median_ms(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// `VmRSS` of a process, in MB of 10⁶ bytes.
///
/// # Panics
/// Where there is no Linux `/proc`.
pub(crate) fn resident_megabytes(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024.0 / 1e6
}
