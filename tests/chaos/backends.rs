//! The backends as processes, and what is done to them.

use super::dice::Dice;
use comfygate_tests::RawConnection;
use comfygate_tests::gateway::{binary, free_address};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a started process may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(180);

/// What happens to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again after a while.
    Killed,
    /// SIGKILL and a start at once: queue and history are gone, and no port was ever closed for long.
    Restarted,
    /// SIGKILL, every file gone, and a start after a while.
    Wiped,
    /// SIGSTOP; SIGCONT after a while.
    Hung,
    /// Its worker thread dies; restarted after a while.
    WorkerDead,
    /// The next node finds no memory.
    OutOfMemory,
    /// Every node fails from now on; restarted after a while.
    CudaBroken,
    /// Its disk is full for a while.
    DiskFull,
}

impl Fault {
    /// The four that every ComfyUI can have are drawn more often.
    pub fn drawn(dice: &mut Dice) -> Fault {
        const ALL: [Fault; 12] = [
            Fault::Killed,
            Fault::Restarted,
            Fault::Wiped,
            Fault::Hung,
            Fault::Killed,
            Fault::Restarted,
            Fault::Wiped,
            Fault::Hung,
            Fault::WorkerDead,
            Fault::OutOfMemory,
            Fault::CudaBroken,
            Fault::DiskFull,
        ];
        ALL[dice.below(ALL.len())]
    }

    /// As the stand-in calls it; `None` for what is done to the process.
    fn of_stand_in(self) -> Option<&'static str> {
        match self {
            Fault::WorkerDead => Some("worker_dies"),
            Fault::OutOfMemory => Some("oom_next"),
            Fault::CudaBroken => Some("cuda_error_next"),
            Fault::DiskFull => Some("lose_disk"),
            Fault::Killed | Fault::Restarted | Fault::Wiped | Fault::Hung => None,
        }
    }
}

/// How a backend is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    Start,
    Restart,
    Continue,
    Room,
}

/// One backend.
#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    process: Process,
    ill: Option<(Instant, Cure)>,
}

#[derive(Debug)]
enum Process {
    StandIn {
        directory: TempDir,
        child: Option<Child>,
    },
    /// By the commands of the environment.
    Real {
        signal: String,
        start: String,
    },
}

/// All of them.
#[derive(Debug)]
pub struct Backends(Vec<Backend>);

impl Backends {
    /// So many stand-ins.
    pub async fn stand_ins(count: usize) -> Backends {
        let mut all = Vec::new();
        for _ in 0..count {
            let directory = tempfile::Builder::new().prefix("comfygate-chaos-").tempdir().unwrap();
            let process = Process::StandIn { directory, child: None };
            let mut backend = Backend { address: free_address(), process, ill: None };
            backend.start().await;
            all.push(backend);
        }
        Backends(all)
    }

    /// Those of `COMFYUI_URLS`, which run already; `None` if the environment does not say how to kill and start them.
    pub fn real(urls: &str) -> Option<Backends> {
        let signal = std::env::var("CHAOS_SIGNAL_CMD").ok()?;
        let start = std::env::var("CHAOS_START_CMD").ok()?;
        let backend = |url: &str| {
            let address =
                url.trim().trim_end_matches('/').trim_start_matches("http://").parse().expect("http://IP:PORT");
            Backend { address, process: Process::Real { signal: signal.clone(), start: start.clone() }, ill: None }
        };
        Some(Backends(urls.split(',').map(backend).collect()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn urls(&self) -> Vec<String> {
        self.0.iter().map(|backend| format!("http://{}", backend.address)).collect()
    }

    pub fn names(&self) -> String {
        let real = self.0.iter().filter(|backend| matches!(backend.process, Process::Real { .. })).count();
        format!("{} stand-ins and {real} real ComfyUIs", self.0.len() - real)
    }

    /// Does something to a backend that is well, for this time. Says what; `None` if it is ill already, or can't have that.
    pub async fn strike(&mut self, place: usize, fault: Fault, time: Duration) -> Option<String> {
        let backend = &mut self.0[place];
        let is_real = matches!(backend.process, Process::Real { .. });
        if backend.ill.is_some() || (is_real && fault.of_stand_in().is_some()) {
            return None;
        }
        let until = Instant::now() + time;
        backend.ill = match fault {
            Fault::Killed | Fault::Wiped => {
                backend.signal("KILL");
                if fault == Fault::Wiped {
                    backend.wipe();
                }
                Some((until, Cure::Start))
            }
            Fault::Restarted => {
                backend.signal("KILL");
                backend.start().await;
                None
            }
            Fault::Hung => {
                backend.signal("STOP");
                Some((until, Cure::Continue))
            }
            Fault::WorkerDead | Fault::CudaBroken => {
                backend.fault(fault, true).await;
                Some((until, Cure::Restart))
            }
            Fault::DiskFull => {
                backend.fault(fault, true).await;
                Some((until, Cure::Room))
            }
            Fault::OutOfMemory => {
                backend.fault(fault, true).await;
                None
            }
        };
        Some(match backend.ill {
            Some(_) => format!("{fault:?} for {time:.1?}"),
            None => format!("{fault:?}"),
        })
    }

    /// Brings back those whose time has come.
    pub async fn recover(&mut self) {
        for backend in &mut self.0 {
            if let Some((_, cure)) = backend.ill.take_if(|(until, _)| Instant::now() >= *until) {
                backend.cure(cure).await;
            }
        }
    }

    /// Brings back all, at once.
    pub async fn heal(&mut self) {
        for backend in &mut self.0 {
            if let Some((_, cure)) = backend.ill.take() {
                backend.cure(cure).await;
            }
        }
    }
}

impl Backend {
    async fn cure(&mut self, cure: Cure) {
        match cure {
            Cure::Start => self.start().await,
            Cure::Restart => {
                self.signal("KILL");
                self.start().await;
            }
            Cure::Continue => self.signal("CONT"),
            Cure::Room => self.fault(Fault::DiskFull, false).await,
        }
    }

    /// Sends the process a signal; after KILL it is gone.
    fn signal(&mut self, name: &str) {
        match &mut self.process {
            Process::StandIn { child, .. } => {
                let running = child.as_mut().expect("it runs");
                if name == "KILL" {
                    running.kill().unwrap();
                    running.wait().unwrap();
                    *child = None;
                } else {
                    let sent = Command::new("kill").arg(format!("-{name}")).arg(running.id().to_string()).status();
                    assert!(sent.unwrap().success());
                }
            }
            Process::Real { signal, .. } => {
                let port = self.address.port().to_string();
                let sent = Command::new("sh").args(["-c", signal]).env("SIGNAL", name).env("PORT", port).status();
                assert!(sent.unwrap().success(), "CHAOS_SIGNAL_CMD failed");
            }
        }
    }

    fn wipe(&self) {
        // A real one's folders are emptied by the command that starts it.
        if let Process::StandIn { directory, .. } = &self.process {
            for entry in fs::read_dir(directory.path()).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
        }
    }

    /// Starts the process and waits until it answers.
    async fn start(&mut self) {
        match &mut self.process {
            Process::StandIn { directory, child } => {
                let mut command = Command::new(binary().with_file_name("comfygate-stand-in"));
                command.args(["--listen", &self.address.to_string(), "--faults", "--directory"]).arg(directory.path());
                *child =
                    Some(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the stand-in's binary"));
            }
            Process::Real { start, .. } => {
                let mut command = tokio::process::Command::new("sh");
                command.args(["-c", start]).env("PORT", self.address.port().to_string());
                assert!(command.status().await.unwrap().success(), "CHAOS_START_CMD failed");
            }
        }
        let end = Instant::now() + START_DEADLINE;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            assert!(Instant::now() < end, "{} does not answer", self.address);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sets a fault of the stand-in's own.
    async fn fault(&self, fault: Fault, on: bool) {
        let name = fault.of_stand_in().expect("one of the stand-in's");
        let body = serde_json::json!({ name: on }).to_string();
        let address = self.address;
        let head = format!(
            "POST /stand-in/faults HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = RawConnection::plain(address, Ipv4Addr::LOCALHOST).await;
        connection.write(format!("{head}{body}").as_bytes()).await;
        assert_eq!(connection.response().await.expect("an answer").status, 200);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Process::StandIn { child: Some(child), .. } = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
