//! Prometheus metrics: names and labels in one place, typed methods for the rest of the gateway. Labels come from closed sets only: never a
//! prompt id, path or tenant.

use crate::admit::guesses::{By, Kind};
use crate::budget::Charge;
use crate::dispatch::health::Standing;
use crate::ids::{BackendId, ProviderId};
use crate::owner::Credential;
use crate::record::gpus::GpuReading;
use crate::record::ledger::keeping::Amount;
use crate::reject::Stage;
use crate::retention::Report;
use http::{Method, StatusCode};
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Seconds of a request: from an answer out of memory to an upload.
const REQUEST_BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
/// Seconds in a queue or on a GPU: up to the hour of a long video.
const JOB_BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0];

/// How many jobs stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobCounts {
    /// In the gateway's queue.
    pub held: u32,
    /// Sent to a backend.
    pub assigned: u32,
    /// Begun there.
    pub running: u32,
}

/// What a canary told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryEnd {
    /// The worker runs.
    Proven,
    /// It does not.
    NotRun,
    /// It does, and nothing can be done there: CUDA or the disk is broken.
    Failed,
    /// Nothing: others' work was in the way, or the backend did not answer.
    Unknown,
}

/// What became of an attempt or a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Ending {
    Succeeded,
    Failed,
    Interrupted,
    Lost,
}

impl Ending {
    fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
        }
    }
}

/// How a renewal of a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The provider vouched for its person again.
    Renewed,
    /// It did not, and the session is over.
    Ended,
    /// It was asked, and there is no telling.
    Failed,
    /// It was not asked, or what it said could not be kept.
    NotAsked,
}

/// One more in a gauge, until it is dropped.
#[derive(Debug)]
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An open socket, counted by what it stands on until this is dropped; and counted once more while that can't be checked.
#[derive(Debug)]
pub struct StandingSocket {
    _open: Counted,
    unchecked: IntGauge,
    waits: Mutex<Option<Counted>>,
}

impl StandingSocket {
    /// Whether its credential could be checked, at the look that is just over.
    pub fn looked(&self, could_be_checked: bool) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if could_be_checked {
            *waits = None;
        } else if waits.is_none() {
            *waits = Some(Counted::new(self.unchecked.clone()));
        }
    }
}

/// Every metric of the gateway, in a registry of its own.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    refusals: IntCounterVec,
    failed_logins: IntCounterVec,
    logins_blocked: IntCounterVec,
    jobs: IntGaugeVec,
    backend_up: IntGaugeVec,
    backend_outstanding: IntGaugeVec,
    backend_state: IntGaugeVec,
    canaries: IntCounterVec,
    warm_ups: IntCounterVec,
    vram_total: IntGaugeVec,
    vram_used: IntGaugeVec,
    gpu_utilisation: GaugeVec,
    gpu_temperature: IntGaugeVec,
    gpu_ecc_errors: IntGaugeVec,
    catalogue_drift: IntGaugeVec,
    shadow_refusals: IntCounter,
    attempts: IntCounterVec,
    dead_letters: IntCounter,
    charged: CounterVec,
    request_seconds: HistogramVec,
    prompt_decision: Histogram,
    queue_wait: Histogram,
    websockets: IntGauge,
    websockets_by_credential: IntGaugeVec,
    websockets_unchecked: IntGaugeVec,
    websockets_held: IntGauge,
    session_renewals: IntCounterVec,
    events: IntCounterVec,
    events_dropped: IntCounter,
    audit_dropped: IntCounter,
    state_free: IntGauge,
    queue_size: IntGauge,
    generation_seconds: Histogram,
    generations: IntCounterVec,
    removed: IntCounterVec,
    removed_bytes: IntCounterVec,
    config_generation: IntGauge,
    config_reload_successful: IntGauge,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Errors
    /// Only if two of the names below were equal.
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        Ok(Self {
            requests: counters(&r, "comfygate_requests_total", "Requests answered", &["route", "method", "status"])?,
            refusals: counters(&r, "comfygate_refusals_total", "Requests refused", &["stage", "code"])?,
            failed_logins: counters(&r, "comfygate_failed_logins_total", "Credentials that were wrong", &["kind"])?,
            logins_blocked: counters(
                &r,
                "comfygate_logins_blocked_total",
                "Logins refused since earlier ones had failed",
                &["by"],
            )?,
            jobs: gauges(&r, "comfygate_jobs", "Jobs that have not ended", &["state"])?,
            backend_up: gauges(&r, "comfygate_backend_up", "1 if the backend takes jobs", &["backend"])?,
            backend_outstanding: gauges(&r, "comfygate_backend_outstanding", "Attempts at the backend", &["backend"])?,
            backend_state: gauges(
                &r,
                "comfygate_backend_state",
                "1 for the state in which the backend is",
                &["backend", "state"],
            )?,
            canaries: counters(
                &r,
                "comfygate_canaries_total",
                "Workflows of our own that test a backend's worker",
                &["backend", "outcome"],
            )?,
            warm_ups: counters(
                &r,
                "comfygate_warm_ups_total",
                "Workflows that ready a backend for its first job",
                &["backend", "outcome"],
            )?,
            vram_total: gauges(&r, "comfyui_gpu_vram_total_bytes", "Memory of the backend's GPU", &["backend"])?,
            vram_used: gauges(&r, "comfyui_gpu_vram_used_bytes", "Memory in use there, by anybody", &["backend"])?,
            gpu_utilisation: registered(
                &r,
                GaugeVec::new(
                    Opts::new("comfygate_gpu_utilisation_ratio", "Part of the last moment in which the GPU worked"),
                    &["backend"],
                )?,
            )?,
            gpu_temperature: gauges(&r, "comfygate_gpu_temperature_celsius", "Of the backend's GPU", &["backend"])?,
            gpu_ecc_errors: gauges(
                &r,
                "comfygate_gpu_ecc_errors",
                "Uncorrected errors of the memory of the backend's GPU since its driver was loaded",
                &["backend"],
            )?,
            catalogue_drift: gauges(
                &r,
                "comfygate_catalogue_drift_classes",
                "Classes of the pinned catalogue that the backend lacks or has otherwise",
                &["backend", "kind"],
            )?,
            shadow_refusals: counter(
                &r,
                "comfygate_shadow_refusals_total",
                "Submissions that a policy in shadow mode let pass and would have refused",
            )?,
            attempts: counters(&r, "comfygate_attempts_total", "Attempts that ended", &["backend", "outcome"])?,
            dead_letters: counter(
                &r,
                "comfygate_dead_letters_total",
                "Jobs that lost every attempt and were put aside",
            )?,
            charged: registered(
                &r,
                CounterVec::new(
                    Opts::new(
                        "comfygate_charged_seconds_total",
                        "Seconds of a GPU of speed 1 that owners were charged",
                    ),
                    &["backend"],
                )?,
            )?,
            request_seconds: registered(
                &r,
                HistogramVec::new(
                    HistogramOpts::new("comfygate_request_seconds", "Head read to answer written")
                        .buckets(REQUEST_BUCKETS.to_vec()),
                    &["route"],
                )?,
            )?,
            prompt_decision: histogram(
                &r,
                "comfygate_prompt_decision_seconds",
                "Body read to verdict",
                &REQUEST_BUCKETS,
            )?,
            queue_wait: histogram(&r, "comfygate_queue_wait_seconds", "Accepted to started", &JOB_BUCKETS)?,
            websockets: gauge(&r, "comfygate_websockets", "Open client WebSockets")?,
            websockets_by_credential: gauges(
                &r,
                "comfygate_websockets_by_credential",
                "Open client WebSockets by what they stand on",
                &["credential"],
            )?,
            websockets_unchecked: gauges(
                &r,
                "comfygate_websockets_unchecked",
                "Open client WebSockets whose credential could not be checked at the last look",
                &["credential"],
            )?,
            websockets_held: gauge(
                &r,
                "comfygate_websockets_held",
                "WebSockets of pages whose session has ended, kept open in silence",
            )?,
            session_renewals: counters(
                &r,
                "comfygate_session_renewals_total",
                "Renewals of sessions at their identity provider",
                &["provider", "outcome"],
            )?,
            events: counters(
                &r,
                "comfygate_events_total",
                "Events told to owners, whether a socket was open or not",
                &["kind"],
            )?,
            events_dropped: counter(&r, "comfygate_events_dropped_total", "Events that a slow socket missed")?,
            audit_dropped: counter(&r, "comfygate_audit_dropped_total", "Audit lines that were only counted")?,
            state_free: gauge(&r, "comfygate_state_free_bytes", "Free on the disk of the state directory")?,
            queue_size: gauge(&r, "comfyui_queue_size", "Jobs that wait or run")?,
            generation_seconds: histogram(&r, "comfyui_generation_duration_seconds", "Started to ended", &JOB_BUCKETS)?,
            generations: counters(&r, "comfyui_generation_total", "Jobs that ended", &["status"])?,
            removed: counters(
                &r,
                "comfygate_retention_removed_total",
                "Things that retention removed",
                &["what", "reason"],
            )?,
            removed_bytes: counters(
                &r,
                "comfygate_retention_removed_bytes_total",
                "Their bytes; contents are counted once more as they go from the disk",
                &["what", "reason"],
            )?,
            config_generation: gauge(&r, "comfygate_config_generation", "1 at start, one more with each reload")?,
            config_reload_successful: gauge(
                &r,
                "comfygate_config_last_reload_successful",
                "0 if the files hold a configuration that was refused",
            )?,
            registry: r,
        })
    }

    /// A request was answered. `route` is the table's pattern, never the path.
    pub fn request(&self, route: &'static str, method: &Method, status: StatusCode, took: Duration) {
        self.requests.with_label_values(&[route, method_name(method), status.as_str()]).inc();
        self.request_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }
    /// A stage said no.
    pub fn refusal(&self, stage: Stage, code: &'static str) {
        self.refusals.with_label_values(&[stage.name(), code]).inc();
    }
    /// A credential was wrong.
    pub fn failed_login(&self, kind: Kind) {
        self.failed_logins.with_label_values(&[kind.name()]).inc();
    }
    /// A login was refused since earlier ones had failed.
    pub fn login_blocked(&self, by: By) {
        self.logins_blocked.with_label_values(&[by.name()]).inc();
    }
    /// How many jobs stand where, now.
    pub fn set_jobs(&self, counts: JobCounts) {
        for (state, count) in [("held", counts.held), ("assigned", counts.assigned), ("running", counts.running)] {
            self.jobs.with_label_values(&[state]).set(count.into());
        }
        self.queue_size.set(i64::from(counts.held) + i64::from(counts.assigned) + i64::from(counts.running));
    }
    /// How a configured backend stands, now.
    pub fn set_backend(&self, backend: &BackendId, up: bool, outstanding: u32) {
        self.backend_up.with_label_values(&[backend.as_str()]).set(up.into());
        self.backend_outstanding.with_label_values(&[backend.as_str()]).set(outstanding.into());
    }
    /// A backend is not configured any more.
    pub fn forget_backend(&self, backend: &BackendId) {
        // Nothing to forget where nothing was told.
        let _ = self.backend_up.remove_label_values(&[backend.as_str()]);
        let _ = self.backend_outstanding.remove_label_values(&[backend.as_str()]);
        for state in Standing::NAMES {
            let _ = self.backend_state.remove_label_values(&[backend.as_str(), state]);
        }
        let _ = self.vram_total.remove_label_values(&[backend.as_str()]);
        let _ = self.vram_used.remove_label_values(&[backend.as_str()]);
        self.forget_gpu(backend);
        for kind in ["missing", "differing"] {
            let _ = self.catalogue_drift.remove_label_values(&[backend.as_str(), kind]);
        }
    }
    /// A run of retention is over.
    pub fn retention(&self, report: &Report) {
        let sum = &report.sum;
        self.removed_amount("results", "age", sum.results_by_age);
        self.removed_amount("results", "bytes", sum.results_by_bytes);
        self.removed_amount("uploads", "age", sum.uploads);
        self.removed_amount("history", "age", sum.history);
        self.removed_amount("refusals", "age", Amount { count: report.refusals, bytes: 0 });
        self.removed_amount("keys", "age", Amount { count: report.keys, bytes: 0 });
        self.removed_amount("contents", "unnamed", report.blobs);
        self.removed_amount("graphs", "unnamed", report.graphs);
        report.backends.iter().for_each(|backend| self.removed_amount("backend_files", "swept", backend.files));
    }
    /// What a committed attempt had left on its backend's disk is gone.
    pub fn backend_files_removed(&self, files: u64, bytes: u64) {
        self.removed_amount("backend_files", "committed", Amount { count: files, bytes });
    }
    fn removed_amount(&self, what: &str, reason: &str, amount: Amount) {
        self.removed.with_label_values(&[what, reason]).inc_by(amount.count);
        self.removed_bytes.with_label_values(&[what, reason]).inc_by(amount.bytes);
    }
    /// Which configuration is in use, and whether the last reading of the files could be used.
    pub fn set_config(&self, generation: u64, last_was_good: bool) {
        self.config_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.config_reload_successful.set(last_was_good.into());
    }
    /// In which of its states a backend is, now.
    pub fn set_backend_state(&self, backend: &BackendId, standing: Standing) {
        for state in Standing::NAMES {
            self.backend_state.with_label_values(&[backend.as_str(), state]).set((state == standing.name()).into());
        }
    }
    /// How many classes of the pinned catalogue a backend lacks, and how many it has otherwise.
    pub fn set_catalogue_drift(&self, backend: &BackendId, missing: usize, differing: usize) {
        for (kind, classes) in [("missing", missing), ("differing", differing)] {
            let gauge = self.catalogue_drift.with_label_values(&[backend.as_str(), kind]);
            gauge.set(i64::try_from(classes).unwrap_or(i64::MAX));
        }
    }
    /// A policy in shadow mode would have refused a submission.
    pub fn shadow_refusal(&self) {
        self.shadow_refusals.inc();
    }
    /// A canary is over.
    pub fn canary(&self, backend: &BackendId, end: CanaryEnd) {
        let outcome = match end {
            CanaryEnd::Proven => "proven",
            CanaryEnd::NotRun => "not_run",
            CanaryEnd::Failed => "failed",
            CanaryEnd::Unknown => "unknown",
        };
        self.canaries.with_label_values(&[backend.as_str(), outcome]).inc();
    }
    /// A backend was readied for its first job, or could not be.
    pub fn warm_up(&self, backend: &BackendId, succeeded: bool) {
        let outcome = if succeeded { "succeeded" } else { "failed" };
        self.warm_ups.with_label_values(&[backend.as_str(), outcome]).inc();
    }
    /// How much memory a backend's GPU has, and how much of it is in use, now.
    pub fn set_backend_vram(&self, backend: &BackendId, total: u64, used: u64) {
        let set = |gauge: &IntGaugeVec, bytes| {
            gauge.with_label_values(&[backend.as_str()]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        };
        set(&self.vram_total, total);
        set(&self.vram_used, used);
    }
    /// How a backend's GPU is, now. What it does not tell keeps no old value.
    pub fn set_gpu(&self, backend: &BackendId, reading: &GpuReading) {
        let labels = &[backend.as_str()];
        self.set_backend_vram(backend, reading.memory_total, reading.memory_used);
        match reading.utilisation_percent {
            Some(percent) => self.gpu_utilisation.with_label_values(labels).set(f64::from(percent) / 100.0),
            None => drop(self.gpu_utilisation.remove_label_values(labels)),
        }
        match reading.temperature_celsius {
            Some(degrees) => self.gpu_temperature.with_label_values(labels).set(degrees.into()),
            None => drop(self.gpu_temperature.remove_label_values(labels)),
        }
        match reading.ecc_errors {
            Some(errors) => {
                self.gpu_ecc_errors.with_label_values(labels).set(i64::try_from(errors).unwrap_or(i64::MAX));
            }
            None => drop(self.gpu_ecc_errors.remove_label_values(labels)),
        }
    }
    /// A backend's GPU can't be looked at any more.
    pub fn forget_gpu(&self, backend: &BackendId) {
        let labels = &[backend.as_str()];
        let _ = self.gpu_utilisation.remove_label_values(labels);
        let _ = self.gpu_temperature.remove_label_values(labels);
        let _ = self.gpu_ecc_errors.remove_label_values(labels);
    }
    /// An attempt ended.
    pub fn attempt(&self, backend: &BackendId, ending: Ending) {
        self.attempts.with_label_values(&[backend.as_str(), ending.name()]).inc();
    }
    /// A job lost every attempt.
    pub fn dead_letter(&self) {
        self.dead_letters.inc();
    }
    /// A run was charged.
    pub fn charged(&self, backend: &BackendId, charge: Charge) {
        self.charged.with_label_values(&[backend.as_str()]).inc_by(charge.seconds());
    }
    /// A submission was decided.
    pub fn prompt_decided(&self, took: Duration) {
        self.prompt_decision.observe(took.as_secs_f64());
    }
    /// A job began after this wait.
    pub fn queue_wait(&self, waited: Duration) {
        self.queue_wait.observe(waited.as_secs_f64());
    }
    /// How many client WebSockets are open, now.
    pub fn set_websockets(&self, open: usize) {
        self.websockets.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
    /// A client WebSocket that stands on this is open, until what is given back is dropped.
    pub fn standing_socket(&self, credential: Credential) -> StandingSocket {
        let name = [credential.name()];
        StandingSocket {
            _open: Counted::new(self.websockets_by_credential.with_label_values(&name)),
            unchecked: self.websockets_unchecked.with_label_values(&name),
            waits: Mutex::default(),
        }
    }
    /// How many sockets are held in silence, now.
    pub fn set_websockets_held(&self, held: u32) {
        self.websockets_held.set(held.into());
    }
    /// A session's identity provider was to renew it.
    pub fn session_renewal(&self, provider: &ProviderId, outcome: Renewal) {
        let outcome = match outcome {
            Renewal::Renewed => "renewed",
            Renewal::Ended => "ended",
            Renewal::Failed => "failed",
            Renewal::NotAsked => "not_asked",
        };
        self.session_renewals.with_label_values(&[provider.as_str(), outcome]).inc();
    }
    /// An event went to a socket; `kind` is one of ComfyUI's event names known to the codec.
    pub fn event(&self, kind: &'static str) {
        self.events.with_label_values(&[kind]).inc();
    }
    /// A slow socket missed events.
    pub fn events_dropped(&self, count: u64) {
        self.events_dropped.inc_by(count);
    }
    /// Audit lines were only counted.
    pub fn audit_dropped(&self, count: u64) {
        self.audit_dropped.inc_by(count);
    }
    /// How many bytes are free on the disk of the state directory, now.
    pub fn set_state_free(&self, bytes: u64) {
        self.state_free.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    /// How many jobs stand where, as last told.
    pub fn jobs(&self) -> JobCounts {
        let count = |state| u32::try_from(self.jobs.with_label_values(&[state]).get()).unwrap_or(0);
        JobCounts { held: count("held"), assigned: count("assigned"), running: count("running") }
    }
    /// How many attempts are at a backend, as last told.
    pub fn outstanding(&self, backend: &BackendId) -> u32 {
        u32::try_from(self.backend_outstanding.with_label_values(&[backend.as_str()]).get()).unwrap_or(0)
    }
    /// A job ended, after running so long.
    pub fn generation(&self, ending: Ending, took: Duration) {
        self.generations.with_label_values(&[ending.name()]).inc();
        self.generation_seconds.observe(took.as_secs_f64());
    }
    /// Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// What the encoder said.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// A caller may invent methods: the unknown ones share one label.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(
    r: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}
fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    registered(r, IntCounter::new(name, help)?)
}
fn counters(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    registered(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}
fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    registered(r, IntGauge::new(name, help)?)
}
fn gauges(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    registered(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}
fn histogram(r: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    registered(r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invented_method_shares_one_label_and_a_known_one_has_its_own() {
        let metrics = Metrics::new().unwrap();
        for method in ["POST", "EVIL1", "EVIL2"] {
            metrics.request("/prompt", &method.parse().unwrap(), StatusCode::OK, Duration::from_millis(2));
        }
        let text = metrics.text().unwrap();
        assert!(text.contains(r#"comfygate_requests_total{method="POST",route="/prompt",status="200"} 1"#), "{text}");
        assert!(text.contains(r#"comfygate_requests_total{method="other",route="/prompt",status="200"} 2"#), "{text}");
    }

    #[test]
    fn a_socket_is_counted_while_it_is_open_and_once_more_while_its_credential_cant_be_checked() {
        let metrics = Metrics::new().unwrap();
        let counts = || {
            let of = |gauge: &IntGaugeVec, name| gauge.with_label_values(&[name]).get();
            (of(&metrics.websockets_by_credential, "jwt"), of(&metrics.websockets_unchecked, "jwt"))
        };
        let (first, second) = (metrics.standing_socket(Credential::Jwt), metrics.standing_socket(Credential::Jwt));
        let other = metrics.standing_socket(Credential::ApiKey);
        other.looked(false);
        assert_eq!(counts(), (2, 0));
        first.looked(false);
        first.looked(false);
        second.looked(true);
        assert_eq!(counts(), (2, 1), "two looks in vain are one socket");
        first.looked(true);
        assert_eq!(counts(), (2, 0));
        first.looked(false);
        drop(first);
        assert_eq!(counts(), (1, 0), "one that is closed waits for nothing");
        assert!(metrics.text().unwrap().contains(r#"comfygate_websockets_unchecked{credential="api_key"} 1"#));
    }

    #[test]
    fn the_queue_size_of_dashboards_is_the_sum_of_the_states() {
        let metrics = Metrics::new().unwrap();
        metrics.set_jobs(JobCounts { held: 3, assigned: 1, running: 2 });
        let text = metrics.text().unwrap();
        assert!(text.contains("comfyui_queue_size 6"), "{text}");
        assert!(text.contains(r#"comfygate_jobs{state="held"} 3"#), "{text}");
    }
}
