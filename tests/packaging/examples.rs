//! The clients of docs/examples, run as their reader runs them, against the demo.

use super::{repository, tool};
use comfygate_tests::gateway::{binary, free_address, said};
use comfygate_tests::skipped;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The demo in a process of its own. It ends with the test.
struct Demo {
    child: Child,
    told: Value,
}

impl Demo {
    fn start() -> Demo {
        let (https, metrics) = (free_address().to_string(), free_address().to_string());
        let mut command = Command::new(binary());
        command.args(["demo", "--json", "--listen", &https, "--metrics", &metrics]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        // Without a demo the line ends at once and is no JSON.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Demo { child, told }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command.env("COMFYGATE_URL", self.told["url"].as_str().unwrap());
        command.env("COMFYGATE_KEY", self.told["tenants"][0]["key"].as_str().unwrap());
        let ca = self.told["ca_file"].as_str().unwrap();
        command.env("COMFYGATE_CA", ca).env("NODE_EXTRA_CA_CERTS", ca);
        command.output().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client on the workflow of the examples, and on one that no policy lets pass.
fn client_saves_a_picture_and_tells_a_refusal(program: &str, client: &str) {
    let demo = Demo::start();
    let (client, workflow) = (repository(client).display().to_string(), repository("docs/examples/workflow.json"));
    let folder = tempfile::tempdir().unwrap();
    let run = |workflow: &Path| {
        demo.run(program, &[&client, &workflow.display().to_string(), &folder.path().display().to_string()])
    };
    let done = run(&workflow);
    assert!(done.status.success(), "{}", said(&done));
    let told = said(&done);
    assert!(told.contains("tenant alice") && told.contains("ended: success"), "{told}");
    let saved = told.lines().find_map(|line| line.strip_prefix("saved ")).unwrap_or_else(|| panic!("{told}"));
    assert!(std::fs::read(saved).unwrap().starts_with(b"\x89PNG"), "{saved}");

    let mut greedy: Value = serde_json::from_slice(&std::fs::read(&workflow).unwrap()).unwrap();
    greedy["4"]["inputs"]["steps"] = Value::from(9999);
    let path = folder.path().join("greedy.json");
    std::fs::write(&path, greedy.to_string()).unwrap();
    let refused = run(&path);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("refused: 403 policy_violation"), "{}", said(&refused));
    assert!(said(&refused).contains("node 4:"), "{}", said(&refused));
}

#[test]
fn the_python_client_saves_a_picture_and_tells_a_refusal() {
    let new_enough = tool("python3", &["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]);
    match new_enough {
        Some(found) if found.status.success() => {
            client_saves_a_picture_and_tells_a_refusal("python3", "docs/examples/client.py");
        }
        _ => skipped("the Python example: python3 3.9 or later is not installed"),
    }
}

#[test]
fn the_typescript_client_saves_a_picture_and_tells_a_refusal() {
    // $NODE names another one than that of the PATH.
    let node = std::env::var("NODE").unwrap_or_else(|_| "node".to_owned());
    let version = tool(&node, &["--version"]).map(|found| said(&found)).unwrap_or_default();
    let mut numbers = version.trim().trim_start_matches('v').split('.').map(|number| number.parse().unwrap_or(0));
    let found: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < (22, 18) {
        return skipped(
            "the TypeScript example: Node 22.18 or later, which runs TypeScript by itself, is not installed",
        );
    }
    client_saves_a_picture_and_tells_a_refusal(&node, "docs/examples/client.ts");
}
