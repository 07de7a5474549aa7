//! [`Gpus`] through NVIDIA's management library (NVML), which comes with the driver and is looked for when the program runs.

use super::{GpuError, GpuReading, Gpus};
use crate::config::GpuName;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

/// The driver's library, open.
#[derive(Debug)]
pub(super) struct Driver(Nvml);

impl Driver {
    /// Opens it.
    ///
    /// # Errors
    /// It is not there, or has no driver.
    pub(super) fn open() -> Result<Self, GpuError> {
        Nvml::init().map(Self).map_err(|error| failed(&error))
    }
}

impl Gpus for Driver {
    fn look(&self, gpu: &GpuName) -> Result<GpuReading, GpuError> {
        let device = match gpu {
            GpuName::Index(index) => self.0.device_by_index(*index),
            GpuName::Uuid(uuid) => self.0.device_by_uuid(uuid.as_str()),
        };
        let device = device.map_err(|error| failed(&error))?;
        let memory = device.memory_info().map_err(|error| failed(&error))?;
        Ok(GpuReading {
            name: device.name().unwrap_or_default(),
            memory_total: memory.total,
            memory_used: memory.used,
            // What a GPU does not have, it says it does not support.
            utilisation_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
            ecc_errors: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        })
    }
}

fn failed(error: &NvmlError) -> GpuError {
    GpuError(format!("NVML: {error}"))
}
