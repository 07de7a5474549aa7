//! `comfygate setup` and `comfygate doctor`: from an open ComfyUI to a protected one.

use comfygate_tests::gateway::{binary, fast, free_address, said};
use comfygate_tests::{Options, StandIn};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

async fn installation() -> StandIn {
    StandIn::start(Options { packs: 3, ..fast() }).await.unwrap()
}

/// Runs the binary with these words on its standard input.
fn run(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(directory).env_remove("COMFYGATE_CONFIG").env_remove("STATE_DIRECTORY");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Somebody who refused before reading everything is no fault of the test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn ports() -> [String; 2] {
    [free_address(), free_address()].map(|address| address.port().to_string())
}

fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(directory).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_yes_everything_is_written_and_it_serves() {
    let (stand_in, directory, [port, metrics]) = (installation().await, tempfile::tempdir().unwrap(), ports());
    let dir = directory.path();
    let url = stand_in.url();
    let set_up = run(dir, &["setup", "--port", &port, "--metrics-port", &metrics], &format!("{url}\ny\n"));
    let text = said(&set_up);
    assert_eq!(set_up.status.code(), Some(0), "{text}");
    for told in ["1 classes  pack_3", "ComfyUI's own", "Protect it, with all of these packs in use?", "SHA-256", &url] {
        assert!(text.contains(told), "`{told}` in {text}");
    }
    let written = files(dir);
    for file in
        ["config/gateway.toml", "config/tenants.toml", "config/owner.toml", "comfygate.service", "state/ledger.redb"]
    {
        assert!(written.iter().any(|found| found == file), "{file} in {written:?}");
    }
    let key = text.lines().map(str::trim).find(|line| line.starts_with("cg_")).unwrap().to_owned();
    let checked = run(dir, &["check"], "");
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
    let unit = std::fs::read_to_string(dir.join("comfygate.service")).unwrap();
    assert!(unit.contains(&format!("serve --config \"{}\"", dir.join("config/gateway.toml").display())), "{unit}");

    let mut serving = Command::new(binary())
        .args(["serve", "--config", dir.join("config/gateway.toml").to_str().unwrap()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ca = dir.join("state/tls/ca.crt");
    let ask = |path: &str, with_key: bool| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "5", "--cacert", ca.to_str().unwrap(), "-w", "\n%{http_code}"]);
        if with_key {
            curl.args(["-H", &format!("x-api-key: {key}")]);
        }
        let answer = curl.arg(format!("https://localhost:{port}{path}")).output().unwrap();
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        let (body, status) = answer.rsplit_once('\n').unwrap_or_default();
        (status.to_owned(), body.to_owned())
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while ask("/pack_1/hello", true).0 != "200" {
        assert!(std::time::Instant::now() < end, "it does not serve the pack: {:?}", ask("/pack_1/hello", true));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let me: Value = serde_json::from_str(&ask("/gate/me", true).1).unwrap();
    assert_eq!(
        (me["tenant"].as_str(), me["user"].as_str(), me["policy"].as_str()),
        (Some("owner"), Some("me"), Some("owner"))
    );
    assert_eq!(ask("/gate/ca.crt", false).1.trim(), std::fs::read_to_string(&ca).unwrap().trim());
    assert_eq!(ask("/queue", false).0, "401");
    serving.kill().unwrap();
    serving.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_yes_nothing_is_written_and_what_is_there_is_never_overwritten() {
    let (stand_in, directory, [port, metrics]) = (installation().await, tempfile::tempdir().unwrap(), ports());
    let dir = directory.path();
    let url = stand_in.url();
    let arguments = ["setup", "--backend", &url, "--port", &port, "--metrics-port", &metrics];
    for answer in ["n\n", "\n", ""] {
        let refused = run(dir, &arguments, answer);
        assert_eq!(refused.status.code(), Some(1), "{answer:?}: {}", said(&refused));
        assert_eq!(files(dir), [""; 0], "{answer:?}");
    }
    let agreed = run(dir, &[&arguments[..], &["--yes", "--lan", "--name", "box.example"]].concat(), "");
    assert_eq!(agreed.status.code(), Some(0), "{}", said(&agreed));
    let gateway = std::fs::read_to_string(dir.join("config/gateway.toml")).unwrap();
    assert!(gateway.contains(&format!("0.0.0.0:{port}")) && gateway.contains("box.example"), "{gateway}");
    assert!(said(&agreed).contains('█') && said(&agreed).contains("/gate/ca.crt"), "a QR code");
    let again = run(dir, &arguments, "y\n");
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("gateway.toml` ") || said(&again).contains("there already"), "{}", said(&again));
    assert_eq!(std::fs::read_to_string(dir.join("config/gateway.toml")).unwrap(), gateway);
}

#[test]
fn where_no_comfyui_answers_setup_says_so_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("http://{}", free_address());
    let refused = run(directory.path(), &["setup", "--backend", &url, "--yes"], "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("no ComfyUI answers at"), "{}", said(&refused));
    assert_eq!(files(directory.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_tells_what_is_wrong_and_its_exit_code_says_whether_it_is_a_problem() {
    let (stand_in, directory) = (installation().await, tempfile::tempdir().unwrap());
    let looked = run(directory.path(), &["doctor", "--backend", &stand_in.url(), "--json"], "");
    let report: Value = serde_json::from_slice(&looked.stdout).unwrap_or_else(|_| panic!("{}", said(&looked)));
    let findings = report["backends"][0]["findings"].as_array().unwrap();
    let has = |code: &str| findings.iter().any(|finding| finding["code"] == code);
    assert!(has("vulnerable"), "the recorded release is 0.8.0: {report}");
    let problems = findings.iter().any(|finding| finding["level"] == "problem");
    assert_eq!(looked.status.code(), Some(i32::from(problems)), "{report}");
    let gone = run(directory.path(), &["doctor", "--backend", &format!("http://{}", free_address())], "");
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("problem") && said(&gone).contains("start ComfyUI"), "{}", said(&gone));
}
