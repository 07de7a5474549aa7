//! What ships beside the binary: the systemd unit, the container files, the examples of the documentation. Each test uses the tool that will read the file; where that is missing it says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failure has to end the test, with the place where it happened"
)]

mod examples;

use comfygate_tests::gateway::{binary, run_in, said};
use comfygate_tests::skipped;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// What a tool says; `None` where it is not installed.
pub(crate) fn tool(name: &str, arguments: &[&str]) -> Option<Output> {
    Command::new(name).args(arguments).stdin(Stdio::null()).output().ok()
}

/// The unit with the binary under test in the place of the installed one.
fn unit_of_this_binary(directory: &Path) -> String {
    let unit = text("packaging/comfygate.service").replace("/usr/local/bin/comfygate", &binary().display().to_string());
    let path = directory.join("comfygate.service");
    std::fs::write(&path, unit).unwrap();
    path.display().to_string()
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let unit = unit_of_this_binary(directory.path());
    let Some(verified) = tool("systemd-analyze", &["verify", &unit]) else {
        return skipped("the systemd unit: systemd-analyze is not installed");
    };
    // What it does not know is a warning to systemd, and a protection less to us.
    let about_ours: Vec<String> =
        said(&verified).lines().filter(|line| line.contains("comfygate")).map(str::to_owned).collect();
    assert!(verified.status.success() && about_ours.is_empty(), "{}", said(&verified));
    let wrong = std::fs::read_to_string(&unit).unwrap().replace("ProtectSystem=strict", "ProtectSystm=strict");
    std::fs::write(&unit, wrong).unwrap();
    let verified = tool("systemd-analyze", &["verify", &unit]).unwrap();
    assert!(said(&verified).contains("ProtectSystm"), "the tool does not look: {}", said(&verified));
}

#[test]
fn systemd_finds_little_that_the_unit_leaves_open() {
    let directory = tempfile::tempdir().unwrap();
    let unit = unit_of_this_binary(directory.path());
    let exposure_max = "--threshold=20";
    let Some(judged) = tool("systemd-analyze", &["security", "--offline=true", exposure_max, "--no-pager", &unit])
    else {
        return skipped("the exposure of the systemd unit: systemd-analyze is not installed");
    };
    if said(&judged).contains("unrecognized option") {
        return skipped("the exposure of the systemd unit: this systemd-analyze judges no files (systemd 250 does)");
    }
    assert!(judged.status.success(), "{}", said(&judged));
}

/// A YAML file as JSON; `None` where nothing here reads YAML.
fn yaml(path: &str) -> Option<Value> {
    let program = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1], encoding='utf-8')), sys.stdout)";
    if !tool("python3", &["-c", "import yaml"])?.status.success() {
        return None;
    }
    let read = tool("python3", &["-c", program, &repository(path).display().to_string()]).unwrap();
    assert!(read.status.success(), "{path}: {}", said(&read));
    Some(serde_json::from_slice(&read.stdout).unwrap())
}

#[test]
fn compose_publishes_the_gateway_only_and_shuts_the_backends_in() {
    let Some(compose) = yaml("packaging/compose.yaml") else {
        return skipped("compose.yaml: python3 with PyYAML, which reads it here, is not installed");
    };
    let services = compose["services"].as_object().unwrap();
    let published: Vec<&String> =
        services.iter().filter(|(_, service)| service.get("ports").is_some()).map(|(name, _)| name).collect();
    assert_eq!(published, ["gateway"]);
    assert_eq!(services["gateway"]["ports"], json!(["8443:8443"]));
    assert_eq!(services["gateway"]["read_only"], true);
    assert_eq!(compose["networks"]["backends"]["internal"], true);
    for (name, service) in services {
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert!(service.get("privileged").is_none() && service.get("network_mode").is_none(), "{name}");
        if name != "gateway" {
            assert_eq!(service["networks"], json!(["backends"]), "{name}");
        }
    }
}

#[test]
fn the_configuration_that_compose_mounts_is_good_and_names_its_services() {
    let directory = tempfile::tempdir().unwrap();
    for file in ["gateway.toml", "tenants.toml"] {
        std::fs::copy(repository("packaging/compose").join(file), directory.path().join(file)).unwrap();
    }
    let checked = run_in(directory.path(), &["check", "--config", "gateway.toml"]);
    assert!(checked.status.success(), "{}", said(&checked));
    let gateway = text("packaging/compose/gateway.toml");
    let compose = text("packaging/compose.yaml");
    let backends: Vec<&str> = gateway.lines().filter_map(|line| line.strip_prefix("url = \"http://")).collect();
    assert!(!backends.is_empty());
    for backend in backends {
        let host = backend.split(':').next().unwrap();
        assert!(compose.contains(&format!("\n  {host}:\n")), "no service `{host}`");
    }
}

/// The instructions of a Dockerfile, continued lines joined, with their arguments.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let joined = dockerfile.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

#[test]
fn the_image_holds_one_binary_and_runs_as_nobody_with_commands_that_exist() {
    let all = instructions(&text("packaging/Dockerfile"));
    let last_stage = all.iter().rposition(|(name, _)| name == "FROM").unwrap();
    let image = &all[last_stage..];
    assert_eq!(image[0].1, "scratch");
    let of = |wanted: &str| -> Vec<&str> {
        image.iter().filter(|(name, _)| name == wanted).map(|(_, rest)| rest.as_str()).collect()
    };
    assert_eq!(of("USER"), ["65532:65532"]);
    assert_eq!(of("COPY").len(), 2, "the binary and the empty state directory");
    assert!(of("RUN").is_empty(), "there is nothing in an empty image that could run");
    assert_eq!(of("ENTRYPOINT"), ["[\"/comfygate\"]"]);
    let directory = tempfile::tempdir().unwrap();
    let words = |command: &str| -> Vec<String> { serde_json::from_str(command).unwrap() };
    let health = words(of("HEALTHCHECK")[0].split_once("CMD ").unwrap().1);
    assert_eq!(health[0], "/comfygate", "there is no other program in the image");
    for subcommand in [&health[1], &words(of("CMD")[0])[0]] {
        let help = run_in(directory.path(), &[subcommand, "--help"]);
        assert!(help.status.success() && said(&help).contains("--config"), "{subcommand}: {}", said(&help));
    }
}

#[test]
fn no_key_or_state_gets_into_the_context_of_the_image() {
    let lines: Vec<String> = text(".dockerignore").lines().map(str::to_owned).collect();
    let first = lines.iter().find(|line| !line.starts_with('#')).unwrap();
    assert_eq!(first, "*", "everything is left out that is not named");
    for allowed in lines.iter().filter_map(|line| line.strip_prefix('!')) {
        assert!(!["certs", "state", ".git", "*"].contains(&allowed), "{allowed}");
        assert!(repository(allowed).exists(), "{allowed}");
    }
    for secret in ["**/*.key", "**/*.pem", "**/target"] {
        assert!(lines.iter().any(|line| line == secret), "{secret}");
    }
    // What the build needs is there: every member of the workspace.
    for member in ["Cargo.toml", "Cargo.lock", "policies", "proxy", "tests"] {
        assert!(lines.iter().any(|line| line == &format!("!{member}")), "{member}");
    }
}
