//! Log lines to stderr, each with the generation of the configuration that was in force when it was written.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Of the process, as the log is: 0 before the first configuration is in use.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Log lines to stderr; `RUST_LOG` chooses what. A second call changes nothing.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,pingora_core=warn,pingora_proxy=warn,pingora=warn"));
    let distrust = filter.max_level_hint().is_some_and(|most| most >= LevelFilter::DEBUG);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_timer(Stamp);
    let _ = tracing_subscriber::registry().with(filter).with(lines.with_filter(Fit { distrust })).try_init();
}

/// Which lines are fit to be written, of those that were asked for.
struct Fit {
    /// Whether handshakes count that ended because the client does not trust our certificate: for whoever asks for `debug`.
    distrust: bool,
}

impl<S> Filter<S> for Fit {
    fn enabled(&self, line: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        // SECURITY: at `trace` Pingora writes whole request heads, credentials included.
        !(line.target().starts_with("pingora") && *line.level() == Level::TRACE)
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if self.distrust || *event.metadata().level() != Level::ERROR {
            return true;
        }
        let mut text = Message(String::new());
        event.record(&mut text);
        !is_distrust(&text.0)
    }
}

/// What clients say, by an alert of TLS, to a certificate whose CA they don't know: every browser does at a first start, with the certificate that we make. Nothing is wrong here, and Pingora calls
/// it an error.
fn is_distrust(message: &str) -> bool {
    let alerts = ["CertificateUnknown", "UnknownCA", "BadCertificate"];
    message.starts_with("Downstream handshake error")
        && alerts.iter().any(|alert| message.contains(&format!("received fatal alert: {alert}")))
}

/// The message of a line.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Text can be written without end of room.
            let _ = write!(self.0, "{value:?}");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_trust_us_is_no_error_and_any_other_failed_handshake_is() {
        let line = |cause: &str| {
            format!(
                "Downstream handshake error from 192.0.2.1:9:  TLSHandshakeFailure context: TLS accept() failed cause: {cause}"
            )
        };
        for alert in ["CertificateUnknown", "UnknownCA", "BadCertificate"] {
            assert!(is_distrust(&line(&format!("received fatal alert: {alert}"))), "{alert}");
        }
        for other in [
            "received fatal alert: HandshakeFailure",
            "received corrupt message of type InvalidContentType",
            "peer is incompatible: NoCipherSuitesInCommon",
            "invalid peer certificate: BadCertificate",
        ] {
            assert!(!is_distrust(&line(other)), "{other}");
        }
        assert!(!is_distrust("the backend's certificate: received fatal alert: UnknownCA"));
    }
}
