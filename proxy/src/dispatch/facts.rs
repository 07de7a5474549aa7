//! What a ComfyUI says of itself and its devices (`GET /system_stats`, facts §9.1). Pure but for the reading of what is given.

use serde_json::Value;

/// Most arguments and devices that are kept, and the longest text of each: a backend is not trusted with our memory.
const ITEMS_MAX: usize = 64;
const TEXT_CHARS_MAX: usize = 512;
/// How far two readings of one GPU's free memory may be apart, taken within a second of each other.
const FREE_DIFFERENCE_MAX: u64 = 16 << 20;

/// The facts of one backend, as it told them last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendFacts {
    /// `system.comfyui_version`; empty if it does not say.
    pub comfyui_version: String,
    /// `system.pytorch_version`; empty if it does not say.
    pub pytorch_version: String,
    /// `system.argv`: its command line. May name paths of its machine: for operators only.
    pub argv: Vec<String>,
    /// `devices`.
    pub devices: Vec<Device>,
}

/// One device, as torch sees it in that process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Such as `cuda:0 NVIDIA H200 : cudaMallocAsync`.
    pub name: String,
    /// `cuda`, `cpu`, `mps` …
    pub kind: String,
    /// torch's index, which begins anew in each process: `CUDA_VISIBLE_DEVICES` can make any GPU the first.
    pub index: Option<u64>,
    /// Bytes.
    pub vram_total: u64,
    /// Bytes that were free when it was asked.
    pub vram_free: u64,
}

impl BackendFacts {
    /// Reads an answer; what is not there stays empty.
    pub fn read(stats: &Value) -> Self {
        let system = |key: &str| text(stats.get("system").and_then(|system| system.get(key)));
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let argv = list(stats.pointer("/system/argv"));
        let devices = list(stats.get("devices"));
        Self {
            comfyui_version: system("comfyui_version"),
            pytorch_version: system("pytorch_version"),
            argv: argv.iter().take(ITEMS_MAX).map(|item| text(Some(item))).collect(),
            devices: devices.iter().take(ITEMS_MAX).map(Device::read).collect(),
        }
    }

    /// Bytes of the largest device: ComfyUI loads models onto one. `None` where none is told; for a CPU it is the machine's memory.
    pub fn vram_total(&self) -> Option<u64> {
        self.devices.iter().map(|device| device.vram_total).max().filter(|total| *total > 0)
    }

    /// Bytes that are free on that device.
    pub fn vram_free(&self) -> Option<u64> {
        self.devices
            .iter()
            .filter(|device| device.vram_total > 0)
            .max_by_key(|device| device.vram_total)
            .map(|device| device.vram_free)
    }

    /// The GPU that both seem to run on. Readings of the same second; a guess: two idle GPUs of one kind in two processes can look the same.
    pub fn shared_gpu<'a>(&'a self, other: &Self) -> Option<&'a Device> {
        // Whoever names a device on the command line, and another one than the other does, has seen to it.
        let chosen = |facts: &Self| {
            let at = facts.argv.iter().position(|word| word == "--cuda-device");
            at.and_then(|at| facts.argv.get(at.saturating_add(1)).cloned())
        };
        if let (Some(a), Some(b)) = (chosen(self), chosen(other))
            && a != b
        {
            return None;
        }
        self.devices.iter().find(|device| other.devices.iter().any(|there| device.looks_like(there)))
    }
}

impl Device {
    fn read(value: &Value) -> Self {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Self {
            name: text(value.get("name")),
            kind: text(value.get("type")),
            index: number("index"),
            vram_total: number("vram_total").unwrap_or(0),
            vram_free: number("vram_free").unwrap_or(0),
        }
    }

    fn looks_like(&self, other: &Self) -> bool {
        let is_gpu = !self.kind.is_empty() && self.kind != "cpu";
        is_gpu
            && (&self.kind, &self.name, self.index, self.vram_total)
                == (&other.kind, &other.name, other.index, other.vram_total)
            && self.vram_free.abs_diff(other.vram_free) <= FREE_DIFFERENCE_MAX
    }
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(kind: &str, index: u64, free: u64, argv: &[&str]) -> BackendFacts {
        BackendFacts::read(&json!({
            "system": {"comfyui_version": "0.8.0", "pytorch_version": "2.9", "argv": argv},
            "devices": [{"name": format!("{kind}:{index} X"), "type": kind, "index": index, "vram_total": 80_u64 << 30, "vram_free": free}],
        }))
    }

    #[test]
    fn an_answer_is_read_and_nonsense_gives_empty_facts() {
        let read = facts("cuda", 0, 5, &["main.py", "--port", "8188"]);
        assert_eq!((read.comfyui_version.as_str(), read.argv.len(), read.devices.len()), ("0.8.0", 3, 1));
        assert_eq!((read.devices[0].index, read.devices[0].vram_free), (Some(0), 5));
        assert_eq!(BackendFacts::read(&json!([1])), BackendFacts::default());
        let many = json!({"system": {"argv": vec!["x".repeat(1000); 1000]}});
        let read = BackendFacts::read(&many);
        assert_eq!((read.argv.len(), read.argv[0].len()), (ITEMS_MAX, TEXT_CHARS_MAX));
    }

    #[test]
    fn the_largest_device_is_the_one_that_counts_and_one_of_no_size_is_not_known() {
        let of = |devices: Value| BackendFacts::read(&json!({ "devices": devices }));
        let two = of(json!([{"vram_total": 5, "vram_free": 4}, {"vram_total": 9, "vram_free": 1}]));
        assert_eq!((two.vram_total(), two.vram_free()), (Some(9), Some(1)));
        let none = of(json!([{"vram_total": 0, "vram_free": 0}]));
        assert_eq!((none.vram_total(), none.vram_free()), (None, None));
    }

    #[test]
    fn equal_devices_with_equal_free_memory_seem_to_be_one_and_others_do_not() {
        let one = facts("cuda", 0, 1 << 30, &[]);
        let shared = |other: &BackendFacts| one.shared_gpu(other).is_some();
        assert!(shared(&facts("cuda", 0, (1 << 30) + FREE_DIFFERENCE_MAX, &[])));
        assert!(!shared(&facts("cuda", 0, (1 << 30) + FREE_DIFFERENCE_MAX + 1, &[])));
        assert!(!shared(&facts("cuda", 1, 1 << 30, &[])));
        assert!(facts("cpu", 0, 5, &[]).shared_gpu(&facts("cpu", 0, 5, &[])).is_none());
    }

    #[test]
    fn two_that_were_given_different_devices_do_not_share_one() {
        let on = |device: &str| facts("cuda", 0, 1 << 30, &["main.py", "--cuda-device", device]);
        assert!(on("0").shared_gpu(&on("1")).is_none());
        assert!(on("0").shared_gpu(&on("0")).is_some());
    }
}
