//! The GPUs of this machine as their driver sees them: how much of their memory is in use by anybody, how hard they work, how hot they are.
//!
//! ComfyUI tells of memory itself (`/system_stats`); the rest only the driver knows. It is asked about the GPUs that backends name (`gpu`), where the feature `nvml` is built in and the
//! driver's library is there. An index means a GPU of this machine, so it counts for backends of this machine only; a UUID is found here or nowhere. Errors that only the kernel log tells
//! (XID) are not looked for.

#[cfg(feature = "nvml")]
mod nvml;

use crate::config::{BackendConfig, GpuName};
use crate::dispatch::backend::Backend;
use crate::record::metrics::Metrics;
use crate::services::Services;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// One look at a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GpuReading {
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes that anybody uses.
    pub memory_used: u64,
    /// Percent of the last moment in which it worked; absent where it does not tell, as for a part of a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation_percent: Option<u32>,
    /// Absent where it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<u32>,
    /// Uncorrected errors of its memory since the driver was loaded; absent where it has no such check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_errors: Option<u64>,
}

/// Why there is no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GpuError(pub String);

/// Who can look at GPUs.
pub trait Gpus: Send + Sync {
    /// One look. Blocks.
    ///
    /// # Errors
    /// There is no such GPU here, or the driver does not answer.
    fn look(&self, gpu: &GpuName) -> Result<GpuReading, GpuError>;
}

#[cfg(feature = "nvml")]
fn opened() -> Result<Arc<dyn Gpus>, GpuError> {
    Ok(Arc::new(nvml::Driver::open()?))
}

#[cfg(not(feature = "nvml"))]
fn opened() -> Result<Arc<dyn Gpus>, GpuError> {
    Err(GpuError("this program was built without the feature `nvml`".to_owned()))
}

/// Looks every ten seconds at the GPUs that backends name, until `shutdown` turns true. Ends at once where nobody can look.
pub async fn watch(services: Arc<Services>, mut shutdown: watch::Receiver<bool>) {
    // Opening a library reads files.
    let gpus = match tokio::task::spawn_blocking(opened).await {
        Ok(Ok(gpus)) => gpus,
        Ok(Err(error)) => return tracing::debug!(%error, "no driver to ask about GPUs"),
        Err(error) => return tracing::error!(%error, "no driver to ask about GPUs"),
    };
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = HashSet::new();
    loop {
        tokio::select! {
            () = async { drop(shutdown.wait_for(|down| *down).await) } => return,
            _ = ticks.tick() => {}
        }
        let live = services.live();
        for configured in &live.config.backends {
            let (Some(gpu), Some(backend)) = (named_here(configured), live.backends.get(&configured.id)) else {
                continue;
            };
            let (gpus, gpu) = (Arc::clone(&gpus), gpu.clone());
            let Ok(read) = tokio::task::spawn_blocking(move || gpus.look(&gpu)).await else { continue };
            match &read {
                Ok(_) => drop(told.remove(&backend.id)),
                Err(error) if told.insert(backend.id.clone()) => {
                    tracing::warn!(backend = %backend.id, %error, "its GPU can't be looked at");
                }
                Err(_) => {}
            }
            remember(backend, &services.metrics, read.ok());
        }
        told.retain(|id| live.backends.contains_key(id));
    }
}

/// The GPU of a backend, if this machine can be meant by it.
fn named_here(backend: &BackendConfig) -> Option<&GpuName> {
    backend.gpu.as_ref().filter(|gpu| matches!(gpu, GpuName::Uuid(_)) || backend.endpoint.url().is_local())
}

fn remember(backend: &Backend, metrics: &Metrics, reading: Option<GpuReading>) {
    match &reading {
        Some(reading) => metrics.set_gpu(&backend.id, reading),
        None => metrics.forget_gpu(&backend.id),
    }
    backend.set_gpu(reading);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::BackendEndpoint;
    use crate::ids::UpstreamClientId;

    /// What `nvidia-smi -q` of an H200 tells, in the units of NVML.
    struct Recorded;

    impl Gpus for Recorded {
        fn look(&self, gpu: &GpuName) -> Result<GpuReading, GpuError> {
            match gpu {
                GpuName::Index(0) => Ok(GpuReading {
                    name: "NVIDIA H200".into(),
                    memory_total: 150_754_820_096,
                    memory_used: 25_769_803_776,
                    utilisation_percent: Some(73),
                    temperature_celsius: Some(41),
                    ecc_errors: Some(0),
                }),
                GpuName::Index(1) => Ok(GpuReading {
                    name: "a part of one".into(),
                    memory_total: 9,
                    memory_used: 4,
                    ..GpuReading::default()
                }),
                _ => Err(GpuError("not found".into())),
            }
        }
    }

    fn backend() -> Backend {
        let endpoint = BackendEndpoint::parse("http://127.0.0.1:8188").unwrap();
        Backend::new("gpu0".parse().unwrap(), "default".parse().unwrap(), endpoint, UpstreamClientId::new())
    }

    #[test]
    fn a_reading_is_told_as_metrics_and_what_is_not_told_any_more_is_taken_back() {
        let (backend, metrics) = (backend(), Metrics::new().unwrap());
        let look = |gpu: &GpuName| remember(&backend, &metrics, Recorded.look(gpu).ok());
        look(&GpuName::Index(0));
        let text = metrics.text().unwrap();
        for line in [
            "comfyui_gpu_vram_total_bytes{backend=\"gpu0\"} 150754820096",
            "comfyui_gpu_vram_used_bytes{backend=\"gpu0\"} 25769803776",
            "comfygate_gpu_utilisation_ratio{backend=\"gpu0\"} 0.73",
            "comfygate_gpu_temperature_celsius{backend=\"gpu0\"} 41",
            "comfygate_gpu_ecc_errors{backend=\"gpu0\"} 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(backend.gpu().unwrap().name, "NVIDIA H200");
        look(&GpuName::Index(1));
        let text = metrics.text().unwrap();
        assert!(text.contains("comfyui_gpu_vram_total_bytes{backend=\"gpu0\"} 9"), "{text}");
        assert!(!text.contains("comfygate_gpu_"), "{text}");
        look(&GpuName::Index(0));
        look(&GpuName::Index(7));
        assert!(backend.gpu().is_none() && !metrics.text().unwrap().contains("comfygate_gpu_"));
    }

    #[test]
    fn an_index_means_a_gpu_of_this_machine_and_a_uuid_may_be_here_whatever_the_address() {
        let named = |url: &str, gpu: &str| {
            let endpoint = BackendEndpoint::parse(url).unwrap();
            let gpu = Some(gpu.parse().unwrap());
            named_here(&BackendConfig { gpu, ..BackendConfig::new("a".parse().unwrap(), endpoint) }).is_some()
        };
        let uuid = "GPU-01234567-89ab-cdef-0123-456789abcdef";
        assert!(named("http://127.0.0.1:8188", "0") && !named("http://192.0.2.1:8188", "0"));
        assert!(named("http://127.0.0.1:8188", uuid) && named("http://192.0.2.1:8188", uuid));
    }

    #[test]
    fn without_the_feature_or_the_driver_nobody_can_look_and_the_reason_is_told() {
        match opened() {
            Err(error) => assert!(!error.to_string().is_empty()),
            // A machine with a driver: whatever it says of a GPU that it can't have is an error.
            Ok(gpus) => assert!(gpus.look(&GpuName::Index(1023)).is_err()),
        }
    }
}
