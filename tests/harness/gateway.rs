//! Launches the real `comfygate` in a directory of its own, talks to its command line, kills it and starts it again.

use crate::client::Client;
use crate::deadline::{DEADLINE, eventually, within};
use crate::tls::Trust;
use comfygate_stand_in::{Options, StandIn};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// How long a gateway may take to answer after its start.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A free port may be taken by another test between our asking for it and the gateway's binding it.
const START_TRIES: usize = 3;

/// The binary under test: `$COMFYGATE_BIN`, else the one that cargo built beside the test executable.
///
/// # Panics
/// When it is not there.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("COMFYGATE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir()).unwrap();
    let path = profile.join("comfygate");
    assert!(
        path.is_file(),
        "`{}` is not there: run `cargo build --workspace --bins` first, or set COMFYGATE_BIN",
        path.display()
    );
    path
}

/// Below the ports that the system gives to outgoing connections and to `:0` listeners (from 32768 on), so that none of those takes one in between.
const PORTS: std::ops::Range<u32> = 10_000..32_000;
/// Ports that one test process may ask for before it meets its neighbour's.
const PORTS_A_PROCESS: u32 = 16;

/// A free port of 127.0.0.1 that no other test process of these asks for at the same time: the one that binds it comes a moment later.
pub fn free_address() -> SocketAddr {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let span = PORTS.end - PORTS.start;
    loop {
        let place =
            std::process::id().wrapping_mul(PORTS_A_PROCESS).wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + place % span).unwrap();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// Runs the binary in a directory until it ends.
///
/// # Panics
/// When it does not end within the deadline.
pub fn run_in(directory: &Path, arguments: &[&str]) -> Output {
    run_reading(directory, arguments, Stdio::null())
}

fn run_reading(directory: &Path, arguments: &[&str], input: Stdio) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(directory).stdin(input);
    command.env_remove("COMFYGATE_CONFIG").env_remove("STATE_DIRECTORY");
    let (out, err) = (directory.join(".stdout"), directory.join(".stderr"));
    let mut child = command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).spawn().unwrap();
    let end = std::time::Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if std::time::Instant::now() > end {
            let _ = child.kill();
            panic!("`comfygate {}` did not end: {}", arguments.join(" "), fs::read_to_string(&err).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
}

/// Standard output and standard error as one text.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a gateway under test is to be like. The defaults: two stand-ins, the tenants `acme` and `bravo` on one generous plan with the policy
/// `default`, an audit log in a file.
#[derive(Debug)]
pub struct Builder {
    backends: Vec<String>,
    backend_lines: Vec<(usize, String)>,
    stand_ins: Vec<Options>,
    plan: String,
    gateway: String,
    tenants: String,
    files: Vec<(String, String)>,
    head: String,
    environment: Vec<(String, String)>,
    survives_full_files: bool,
}

impl Builder {
    /// One stand-in fewer or more; each with the harness's own options.
    #[must_use]
    pub fn stand_ins(mut self, count: usize) -> Self {
        self.stand_ins = vec![fast(); count];
        self
    }

    /// These stand-ins.
    #[must_use]
    pub fn stand_ins_with(mut self, options: Vec<Options>) -> Self {
        self.stand_ins = options;
        self
    }

    /// Real backends by URL, and no stand-ins.
    #[must_use]
    pub fn backends(mut self, urls: &[String]) -> Self {
        self.stand_ins = Vec::new();
        self.backends = urls.to_vec();
        self
    }

    /// Adds lines to the table of one backend, by its place.
    #[must_use]
    pub fn backend_lines(mut self, number: usize, lines: &str) -> Self {
        self.backend_lines.push((number, lines.to_owned()));
        self
    }

    /// Replaces the limits of the plan that both tenants are on, as TOML lines.
    #[must_use]
    pub fn plan(mut self, lines: &str) -> Self {
        self.plan = lines.to_owned();
        self
    }

    /// Appends to gateway.toml.
    #[must_use]
    pub fn gateway_toml(mut self, text: &str) -> Self {
        self.gateway.push_str(text);
        self.gateway.push('\n');
        self
    }

    /// Appends to tenants.toml.
    #[must_use]
    pub fn tenants_toml(mut self, text: &str) -> Self {
        self.tenants.push_str(text);
        self.tenants.push('\n');
        self
    }

    /// Replaces `public_url`, which otherwise is the listener's address as `localhost`. An empty text leaves it out.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        self.head = lines.to_owned();
        self
    }

    /// Writes a further file into the directory, named relative to it.
    #[must_use]
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Sets an environment variable of the process.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets [`Gateway::limit_files`] fail its writes instead of ending it: the signal that comes with them is ignored, as no real full disk sends one.
    #[must_use]
    pub fn survives_full_files(mut self) -> Self {
        self.survives_full_files = true;
        self
    }

    /// Starts stand-ins and gateway, waits until it answers and has seen all its backends.
    ///
    /// # Panics
    /// When the gateway does not answer within the deadline; its log is printed.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.prepare().await;
        gateway.start().await;
        gateway.backends_are_up().await;
        gateway
    }

    /// Starts the stand-ins and writes the directory, but does not start the gateway.
    pub async fn prepare(self) -> Gateway {
        let mut stand_ins = Vec::new();
        for options in &self.stand_ins {
            stand_ins.push(StandIn::start(options.clone()).await.unwrap());
        }
        let directory = tempfile::Builder::new().prefix("comfygate-e2e-").tempdir().unwrap();
        let urls: Vec<String> = self.backends.iter().cloned().chain(stand_ins.iter().map(StandIn::url)).collect();
        for (name, content) in &self.files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let addresses = Addresses::free();
        let mut secrets = vec![directory.path().display().to_string()];
        let schemes = ["http://", "https://", "unix:"];
        let places = urls.iter().filter_map(|url| schemes.iter().find_map(|scheme| url.strip_prefix(scheme)));
        secrets.extend(places.map(str::to_owned));
        secrets.extend(stand_ins.iter().map(|stand_in| stand_in.directory().display().to_string()));
        let gateway = Gateway {
            directory,
            addresses,
            plan: self,
            urls,
            stand_ins,
            child: None,
            secrets: Arc::new(secrets),
            keys: Mutex::default(),
        };
        gateway.write_configuration();
        gateway
    }
}

/// A gateway's own little workflows would stand among those that tests count at the backends: they are off unless a test says how often.
fn without_canaries(gateway: &str) -> String {
    const OFF: &str = "[dispatch]\ncanary_interval = \"0s\"\n";
    if gateway.contains("canary_interval") {
        gateway.to_owned()
    } else if gateway.contains("[dispatch]\n") {
        gateway.replacen("[dispatch]\n", OFF, 1)
    } else {
        format!("{gateway}\n{OFF}")
    }
}

/// A stand-in whose simulated sampling takes little time.
pub fn fast() -> Options {
    Options { step_time: Duration::from_millis(5), ..Options::default() }
}

/// Where a gateway listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// HTTPS.
    pub https: SocketAddr,
    /// Plain HTTP, which only redirects.
    pub redirect: SocketAddr,
    /// Metrics and health.
    pub metrics: SocketAddr,
}

impl Addresses {
    fn free() -> Addresses {
        let [https, redirect, metrics] = [(); 3].map(|()| free_address());
        Addresses { https, redirect, metrics }
    }
}

/// A gateway under test, with its directory and backends. Dropping it kills the process; if the test failed, its log is printed before.
#[derive(Debug)]
pub struct Gateway {
    directory: TempDir,
    addresses: Addresses,
    plan: Builder,
    urls: Vec<String>,
    stand_ins: Vec<StandIn>,
    child: Option<std::process::Child>,
    secrets: Arc<Vec<String>>,
    keys: Mutex<HashMap<String, String>>,
}

impl Gateway {
    /// A gateway with the defaults of [`Builder`].
    pub fn builder() -> Builder {
        let plan = "policy = \"default\"\nrate = { per_second = 1000, burst = 1000 }\nrequests = { per_second = 5000, burst = 5000 }\n";
        Builder {
            backends: Vec::new(),
            backend_lines: Vec::new(),
            stand_ins: vec![fast(); 2],
            plan: plan.to_owned(),
            gateway: String::new(),
            tenants: String::new(),
            files: Vec::new(),
            head: "PUBLIC".to_owned(),
            environment: Vec::new(),
            survives_full_files: false,
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// `https://localhost:PORT`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addresses.https.port())
    }

    /// The stand-ins behind it, in the order of the backends `gpu0`, `gpu1` …
    pub fn stand_ins(&self) -> &[StandIn] {
        &self.stand_ins
    }

    /// The directory that holds configuration, state and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// gateway.toml.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("gateway.toml")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("gateway.log")
    }

    /// What the process wrote to standard output and standard error, over all its starts.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The audit lines written so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an audit line.
    pub async fn audited(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("audit line: {what}"), || async { self.audit().into_iter().find(|line| is_it(line)) }).await
    }

    fn write_configuration(&self) {
        let Addresses { https, redirect, metrics } = self.addresses;
        let mut text = match self.plan.head.as_str() {
            "PUBLIC" => format!("public_url = \"{}\"\n", self.url()),
            lines => format!("{lines}\n"),
        };
        let here = self.directory.path();
        write!(
            text,
            "[[listen]]\naddress = \"{https}\"\n[[listen]]\naddress = \"{redirect}\"\nredirect = true\n[metrics]\naddress = \"{metrics}\"\n\
             [state]\ndir = {:?}\n[tenants]\nfile = {:?}\n[audit]\nfile = {:?}\n",
            here.join("state"),
            here.join("tenants.toml"),
            here.join("audit.jsonl"),
        )
        .unwrap();
        for (number, url) in self.urls.iter().enumerate() {
            write!(text, "[[backends]]\nid = \"gpu{number}\"\nurl = \"{url}\"\n").unwrap();
            let own = self.plan.backend_lines.iter().filter(|(place, _)| *place == number);
            own.for_each(|(_, lines)| text.push_str(lines));
        }
        text.push_str(&without_canaries(&self.plan.gateway));
        fs::write(self.config(), text).unwrap();
        let mut tenants = format!("[[plan]]\nid = \"usual\"\n{}\n", self.plan.plan);
        for tenant in ["acme", "bravo"] {
            write!(tenants, "[[tenant]]\nid = \"{tenant}\"\nplan = \"usual\"\n").unwrap();
        }
        tenants.push_str(&self.plan.tenants);
        fs::write(here.join("tenants.toml"), tenants).unwrap();
    }

    /// Starts the process and waits until it answers.
    ///
    /// # Panics
    /// When it ends, or does not answer within the deadline.
    pub async fn start(&mut self) {
        for _ in 1..START_TRIES {
            match self.try_start().await {
                Ok(()) => return,
                // Only before anybody knows the ports may they change.
                Err(_) if self.log_text().contains("in use") && self.keys().is_empty() => {
                    self.addresses = Addresses::free();
                    self.write_configuration();
                }
                Err(status) => panic!("the gateway ended at its start: {status}\n{}", self.log_text()),
            }
        }
        let last = self.try_start().await;
        assert!(last.is_ok(), "the gateway does not start: {last:?}\n{}", self.log_text());
    }

    async fn try_start(&mut self) -> Result<(), ExitStatus> {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(self.spawned(&[]));
        let end = tokio::time::Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return Err(status);
            }
            // Its listeners open each for itself, and no command finds the gateway before the control socket is there.
            if self.answers().await && UnixStream::connect(self.state().join("control.sock")).await.is_ok() {
                return Ok(());
            }
            if tokio::time::Instant::now() > end {
                let log = self.log_text();
                panic!("the gateway does not answer within {START_DEADLINE:?}\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    fn spawned(&self, arguments: &[&str]) -> std::process::Child {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = if self.plan.survives_full_files {
            let mut shell = Command::new("sh");
            shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(binary());
            shell
        } else {
            Command::new(binary())
        };
        command.arg("serve").args(arguments).arg("--config").arg(self.config());
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.env_remove("COMFYGATE_CONFIG").env_remove("STATE_DIRECTORY");
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        command.env_remove("NOTIFY_SOCKET").envs(self.plan.environment.iter().cloned());
        command.spawn().unwrap()
    }

    async fn answers(&self) -> bool {
        let Some(trust) = self.try_trust() else { return false };
        let source = std::net::Ipv4Addr::LOCALHOST;
        let connecting = crate::tls::try_connect(self.addresses.https, source, &trust, &["http/1.1"]);
        if !matches!(tokio::time::timeout(Duration::from_secs(5), connecting).await, Ok(Ok(_))) {
            return false;
        }
        self.stranger().get("/gate/health").await.status == 200
    }

    /// Waits until all backends are up, by the metrics.
    pub async fn backends_are_up(&self) {
        for number in 0..self.urls.len() {
            self.backend_is(number, true).await;
        }
    }

    /// Waits until a backend is up or ejected, by the metrics.
    pub async fn backend_is(&self, number: usize, up: bool) {
        let wanted = format!("comfygate_backend_up{{backend=\"gpu{number}\"}} {}", u8::from(up));
        eventually(&format!("{wanted} in the metrics"), || async {
            self.metrics().await.lines().any(|line| line == wanted).then_some(())
        })
        .await;
    }

    /// Waits until no job is held or at a backend, by the metrics. An end shows in the history a moment before it is told to sockets, and before its backend is asked to forget it; once this
    /// returns, both are done for every job whose end has shown.
    pub async fn settled(&self) {
        let states = ["held", "assigned", "running"].map(|state| format!("comfygate_jobs{{state=\"{state}\"}} 0"));
        eventually("no job is anywhere", || async {
            let text = self.metrics().await;
            states.iter().all(|state| text.lines().any(|line| line == state)).then_some(())
        })
        .await;
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        self.plain_get(self.addresses.metrics, "/metrics").await.1
    }

    /// The value of a series of `/metrics`, as `name{label="value"}`; 0 if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// A plain `GET`: status and body.
    pub async fn plain_get(&self, address: SocketAddr, path: &str) -> (u16, String) {
        let mut connection = crate::raw::RawConnection::plain(address, std::net::Ipv4Addr::LOCALHOST).await;
        connection.write(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes()).await;
        let response = connection.response().await.expect("an answer");
        (response.status, response.text())
    }

    fn try_trust(&self) -> Option<Trust> {
        Trust::from_file(&self.state().join("tls/ca.crt"))
    }

    /// Trusts the gateway's own CA.
    pub fn trust(&self) -> Trust {
        self.try_trust().expect("the gateway's own CA")
    }

    /// A caller without a credential.
    pub fn stranger(&self) -> Client {
        Client::new(self.addresses.https, self.trust(), Arc::clone(&self.secrets))
    }

    /// A caller without a credential at another listener, or one that begins otherwise.
    pub fn stranger_at(&self, address: SocketAddr, trust: Trust) -> Client {
        Client::new(address, trust, Arc::clone(&self.secrets))
    }

    /// A caller with a key of a tenant. The key is made at the first call.
    pub fn client(&self, tenant: &str) -> Client {
        self.stranger().bearer(&self.key(tenant))
    }

    /// A key of a tenant, made at the first call.
    pub fn key(&self, tenant: &str) -> String {
        if let Some(key) = self.keys().get(tenant) {
            return key.clone();
        }
        let key = self.new_key(&["--tenant", tenant]);
        self.keys().insert(tenant.to_owned(), key.clone());
        key
    }

    /// Makes a key with `comfygate key create …`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn new_key(&self, arguments: &[&str]) -> String {
        let made = self.command(&[&["key", "create"], arguments].concat());
        assert!(made.status.success(), "key create: {}", said(&made));
        let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        assert!(key.starts_with("cg_") && !key.contains(char::is_whitespace), "the key alone on stdout: {key:?}");
        key
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs another command of the binary with this configuration.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config().display().to_string();
        run_in(self.directory.path(), &[arguments, &["--config", &config]].concat())
    }

    /// The same with a text on its standard input.
    pub fn command_reading(&self, arguments: &[&str], input: &str) -> Output {
        let config = self.config().display().to_string();
        let file = self.directory.path().join(".stdin");
        fs::write(&file, input).unwrap();
        let input = File::open(&file).unwrap();
        run_reading(self.directory.path(), &[arguments, &["--config", &config]].concat(), input.into())
    }

    /// Makes a local user of a tenant with `comfygate user add`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn new_user(&self, name: &str, tenant: &str, password: &str) {
        let arguments = ["user", "add", name, "--tenant", tenant, "--password-stdin"];
        let made = self.command_reading(&arguments, &format!("{password}\n"));
        assert!(made.status.success(), "user add: {}", said(&made));
    }

    /// Asks the control socket, as an operator's own program may.
    ///
    /// # Panics
    /// When it does not answer, or not within HTTP.
    pub async fn control(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = UnixStream::connect(self.state().join("control.sock")).await.unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n");
        let head = format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Kills the process as a crash or `kill -9` does.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it does not end within the deadline.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        self.signal(&child, "TERM");
        let ended = eventually("the gateway ends", || std::future::ready(child.try_wait().unwrap()));
        within("SIGTERM", ended).await
    }

    /// Sends the process a signal, such as `HUP`.
    pub fn send_signal(&self, name: &str) {
        self.signal(self.child.as_ref().expect("it runs"), name);
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    /// When it does not within the deadline.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        eventually("the gateway ends", || std::future::ready(child.try_wait().unwrap())).await
    }

    /// Starts a second process that takes over from this one, and gives the former one's exit status. The second one is the gateway from then on.
    ///
    /// # Panics
    /// When the former one does not end within the deadline.
    pub async fn upgrade(&mut self) -> ExitStatus {
        let successor = self.spawned(&["--upgrade"]);
        let status = self.ended().await;
        self.child = Some(successor);
        status
    }

    /// The value of `comfygate_config_generation`.
    pub async fn generation(&self) -> u64 {
        self.metric("comfygate_config_generation").await as u64
    }

    /// Waits until that generation of the configuration, or a later one, is in force.
    pub async fn generation_is(&self, generation: u64) {
        eventually(&format!("generation {generation}"), || async {
            (self.generation().await >= generation).then_some(())
        })
        .await;
    }

    /// Rewrites a file of the directory, as an editor does: a new file renamed over the old one.
    pub fn edit(&self, name: &str, change: impl FnOnce(String) -> String) {
        let path = self.directory.path().join(name);
        let text = change(fs::read_to_string(&path).unwrap());
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn signal(&self, child: &std::process::Child, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// The process, while it runs: for its memory.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(std::process::Child::id)
    }

    /// From now on the process can't write beyond that many bytes of any file; `None`: it can. Every write fails as on a full disk, and no root can
    /// write all the same. Needs [`Builder::survives_full_files`]; `false` where there is no `prlimit`.
    pub fn limit_files(&self, bytes: Option<u64>) -> bool {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let pid = self.process_id().expect("it runs").to_string();
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).status();
        set.is_ok_and(|status| status.success())
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Starts it again on the same directory and ports.
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            self.kill9();
        }
        self.start().await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the gateway's log:\n{}\n---", self.log_text());
            let audit = self.audit();
            let last: Vec<String> = audit.iter().rev().take(10).rev().map(Value::to_string).collect();
            eprintln!("--- its last audit lines:\n{}\n---", last.join("\n"));
        }
    }
}
