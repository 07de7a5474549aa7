//! What ComfyUI reports as a job's own error and is its backend's: no memory left on the GPU, a broken CUDA context, a full disk. Pure.
//!
//! Told by the type of the exception and by the words that PyTorch and the system put first, both together: a node may raise what it likes with any text. A tenant can
//! provoke some of these all the same (a batch too large, an index out of range), so the attempt counts as one that started, and the last one is told as ComfyUI told it.
//!
//! Sources: `execution.py` of 0.8.0 (`exception_type` is the module and name of the class, `exception_message` its text and a line of tips), `c10/cuda/CUDAException.cpp`
//! and `CUDACachingAllocator.cpp` of PyTorch, which raise `RuntimeError` in releases before `torch.AcceleratorError`; `errno(3)`.

use super::health::Cause;
use serde_json::Value;

/// PyTorch's exceptions that mean nothing else than memory; the second name is that of releases before 2.5.
const OUT_OF_MEMORY: [&str; 2] = ["torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"];
/// How a failed call to CUDA, or to ROCm's form of it, begins.
const CUDA: [&str; 2] = ["CUDA error: ", "HIP error: "];
/// What follows in a `RuntimeError` that PyTorch itself raised: its advice, or the call that failed.
const OF_PYTORCH: [&str; 4] =
    ["kernel errors might be asynchronously reported", "_USE_CUDA_DSA", "when calling `cu", "when calling `hip"];
/// `ENOSPC` and `EDQUOT` of Linux, as Python prints them.
const DISK_FULL: [&str; 2] = ["[Errno 28] ", "[Errno 122] "];

/// What broke at a backend while a job ran there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its GPU had no memory left. Perhaps what others left there was in the way.
    OutOfMemory,
    /// A call to CUDA failed: every later one of that process fails as well, until it is started anew.
    Cuda,
    /// Its disk, or its share of it, is full.
    DiskFull,
}

impl Fault {
    /// What it was, in the reason of a lost attempt, which the job's owner may read.
    pub fn text(self) -> &'static str {
        match self {
            Self::OutOfMemory => "its GPU had no memory left",
            Self::Cuda => "a call to CUDA failed on its GPU",
            Self::DiskFull => "its backend's disk was full",
        }
    }

    /// What its backend is ejected for; `None` if it goes on.
    pub fn cause(self) -> Option<Cause> {
        match self {
            // A tenant whose workflow is too large must not take one backend after the other away from all.
            Self::OutOfMemory => None,
            Self::Cuda => Some(Cause::CudaError),
            Self::DiskFull => Some(Cause::DiskFull),
        }
    }
}

/// What broke, by the last `execution_error` of a backend's history entry; `None` where the error is the job's own, or there is none.
pub fn of_entry(entry: &Value) -> Option<Fault> {
    let status = entry.get("status")?;
    if status.get("status_str").and_then(Value::as_str) != Some("error") {
        return None;
    }
    let messages = status.get("messages")?.as_array()?;
    let error = messages.iter().rev().find(|message| message.get(0).and_then(Value::as_str) == Some("execution_error"));
    let text = |key: &str| error?.get(1)?.get(key)?.as_str();
    of_exception(text("exception_type")?, text("exception_message")?)
}

fn of_exception(kind: &str, message: &str) -> Option<Fault> {
    let begins = |with: &[&str]| with.iter().any(|beginning| message.starts_with(beginning));
    let from_pytorch = || OF_PYTORCH.iter().any(|words| message.contains(words));
    match kind {
        _ if OUT_OF_MEMORY.contains(&kind) => Some(Fault::OutOfMemory),
        "RuntimeError"
            if begins(&["CUDA out of memory. Tried to allocate", "HIP out of memory. Tried to allocate"]) =>
        {
            Some(Fault::OutOfMemory)
        }
        "torch.AcceleratorError" => Some(of_call(message)),
        "RuntimeError" if begins(&CUDA) && from_pytorch() => Some(of_call(message)),
        "OSError" if begins(&DISK_FULL) => Some(Fault::DiskFull),
        _ => None,
    }
}

/// A failed call says by its code that there was no memory; such a context goes on.
fn of_call(message: &str) -> Fault {
    let code = CUDA.iter().find_map(|beginning| message.strip_prefix(beginning)).unwrap_or(message);
    let no_memory = ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED"];
    if no_memory.iter().any(|words| code.starts_with(words)) { Fault::OutOfMemory } else { Fault::Cuda }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ADVICE: &str = "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.";

    fn entry(kind: &str, message: &str) -> Value {
        let error = json!({"exception_type": kind, "exception_message": message});
        json!({"status": {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", error]]}})
    }

    fn fault(kind: &str, message: &str) -> Option<Fault> {
        of_entry(&entry(kind, message))
    }

    #[test]
    fn memory_is_told_by_pytorchs_exceptions_and_by_no_text_in_another() {
        for kind in OUT_OF_MEMORY {
            assert_eq!(fault(kind, "Allocation on device \n"), Some(Fault::OutOfMemory), "{kind}");
        }
        let words = "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.69 GiB total capacity)";
        assert_eq!(fault("RuntimeError", words), Some(Fault::OutOfMemory));
        assert_eq!(fault("ValueError", words), None);
        assert_eq!(fault("RuntimeError", &format!("my node says: {words}")), None);
        assert_eq!(fault("my_pack.OutOfMemoryError", "Allocation on device"), None);
        assert_eq!(fault("MemoryError", ""), None);
    }

    #[test]
    fn a_failed_call_to_cuda_is_told_by_its_exception_or_by_pytorchs_own_words() {
        let words = format!("CUDA error: an illegal memory access was encountered{ADVICE}");
        assert_eq!(fault("torch.AcceleratorError", &words), Some(Fault::Cuda));
        assert_eq!(fault("RuntimeError", &words), Some(Fault::Cuda));
        let cublas = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle )`";
        assert_eq!(fault("RuntimeError", cublas), Some(Fault::Cuda));
        assert_eq!(
            fault(
                "RuntimeError",
                "HIP error: unspecified launch failure\nHIP kernel errors might be asynchronously reported"
            ),
            Some(Fault::Cuda)
        );
        assert_eq!(fault("RuntimeError", "CUDA error: I made this up"), None);
        assert_eq!(fault("Exception", &words), None);
        assert_eq!(fault("RuntimeError", "The size of tensor a (4) must match the size of tensor b (3)"), None);
    }

    #[test]
    fn a_call_that_found_no_memory_breaks_no_context() {
        assert_eq!(
            fault("torch.AcceleratorError", &format!("CUDA error: out of memory{ADVICE}")),
            Some(Fault::OutOfMemory)
        );
        let cublas = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`";
        assert_eq!(fault("RuntimeError", cublas), Some(Fault::OutOfMemory));
        assert_eq!(Fault::OutOfMemory.cause(), None);
        assert_eq!(Fault::Cuda.cause(), Some(Cause::CudaError));
    }

    #[test]
    fn a_full_disk_is_told_by_the_systems_error_and_other_errors_of_the_system_are_the_jobs_own() {
        assert_eq!(fault("OSError", "[Errno 28] No space left on device: '/x/output/a.png'\n"), Some(Fault::DiskFull));
        assert_eq!(fault("OSError", "[Errno 122] Disk quota exceeded"), Some(Fault::DiskFull));
        assert_eq!(fault("OSError", "[Errno 5] Input/output error"), None);
        assert_eq!(fault("RuntimeError", "[Errno 28] No space left on device"), None);
        assert_eq!(fault("OSError", "cannot write: [Errno 28] No space left on device"), None);
    }

    #[test]
    fn only_the_last_error_of_a_failed_run_counts() {
        let mut two = entry("torch.OutOfMemoryError", "");
        let messages = two["status"]["messages"].as_array_mut().unwrap();
        messages.push(json!(["execution_error", {"exception_type": "ValueError", "exception_message": ""}]));
        assert_eq!(of_entry(&two), None);
        let mut succeeded = entry("torch.OutOfMemoryError", "");
        succeeded["status"]["status_str"] = json!("success");
        assert_eq!(of_entry(&succeeded), None);
        for odd in [
            json!({}),
            json!({"status": {"status_str": "error"}}),
            json!({"status": {"status_str": "error", "messages": [7]}}),
        ] {
            assert_eq!(of_entry(&odd), None);
        }
    }
}
