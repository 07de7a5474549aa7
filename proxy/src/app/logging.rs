//! Log lines to stderr, each with the generation of the configuration that was in force when it was written.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Of the process, as the log is: 0 before the first configuration is in use.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Log lines to stderr; `RUST_LOG` chooses what. A second call changes nothing.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,pingora_core=warn,pingora_proxy=warn,pingora=warn"));
    // SECURITY: at `trace` Pingora writes whole request heads, credentials included.
    let no_heads = filter_fn(|line| !(line.target().starts_with("pingora") && *line.level() == Level::TRACE));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_timer(Stamp);
    let _ = tracing_subscriber::registry().with(filter).with(lines.with_filter(no_heads)).try_init();
}

/// Lines from now on bear this number.
pub(super) fn set_generation(generation: u64) {
    GENERATION.store(generation, Ordering::Relaxed);
}

/// The time, then `generation=N`.
struct Stamp;

impl FormatTime for Stamp {
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(line)?;
        write!(line, " generation={}", GENERATION.load(Ordering::Relaxed))
    }
}
