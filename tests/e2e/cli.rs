//! The command line: every fault at once, keys with the gateway running or not, verdicts on files, the demo.

use comfygate_tests::gateway::{binary, free_address, run_in, said};
use comfygate_tests::{Client, Gateway, StandIn, gateway, workflows};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

fn line_of(text: &str, wanted: &str) -> usize {
    text.lines().position(|line| line.contains(wanted)).unwrap() + 1
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("no exit code: {}", said(output)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_every_fault_at_once_with_file_line_and_column() {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    let gateway_toml = "\
[[listen]]
adress = \"127.0.0.1:1\"
[metrics]
address = \"nowhere\"
[state]
dir = \"state\"
[[backends]]
id = \"a\"
url = \"ftp://127.0.0.1:1\"
[[backends]]
id = \"a\"
url = \"http://127.0.0.1:8188\"
[tenants]
file = \"tenants.toml\"
[views]
lifetime = 5
";
    let tenants_toml = "\
[[plan]]
id = \"p\"
policy = \"nonesuch\"
[[tenant]]
id = \"acme\"
plan = \"q\"
weigth = 3
";
    fs::write(gateway.config(), gateway_toml).unwrap();
    fs::write(gateway.directory().join("tenants.toml"), tenants_toml).unwrap();
    let checked = gateway.command(&["check"]);
    let text = said(&checked);
    assert_eq!(code(&checked), 1, "{text}");
    for (file, source, at, hint) in [
        ("gateway.toml", gateway_toml, "adress", "address"),
        ("gateway.toml", gateway_toml, "nowhere", ""),
        ("gateway.toml", gateway_toml, "ftp:", ""),
        ("gateway.toml", gateway_toml, "lifetime", ""),
        ("tenants.toml", tenants_toml, "nonesuch", ""),
        ("tenants.toml", tenants_toml, "\"q\"", ""),
        ("tenants.toml", tenants_toml, "weigth", "weight"),
    ] {
        let place = format!("{file}:{}:", line_of(source, at));
        let told =
            text.lines().find(|line| line.contains(&place)).unwrap_or_else(|| panic!("nothing at {place}\n{text}"));
        let column = told.split(&place).nth(1).unwrap().split(':').next().unwrap();
        assert!(column.trim().parse::<u32>().is_ok_and(|column| column > 0), "no column: {told}");
        assert!(text.contains(hint), "`{hint}` is not named:\n{text}");
    }
    let second_a = gateway_toml.match_indices("id = \"a\"").nth(1).unwrap().0;
    let line = gateway_toml[..second_a].lines().count() + 1;
    assert!(text.contains(&format!("gateway.toml:{line}:")), "the id given twice:\n{text}");
    let served = gateway.command(&["serve"]);
    assert_eq!(code(&served), 2, "serve refuses the same configuration");
    assert!(said(&served).contains(&format!("gateway.toml:{}:", line_of(gateway_toml, "ftp:"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_accepts_what_serve_runs_with() {
    let gateway = Gateway::builder().prepare().await;
    let checked = gateway.command(&["check"]);
    assert_eq!(code(&checked), 0, "{}", said(&checked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_later_release_is_told_as_such_and_not_as_unknown() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[redis]\nurl = \"x\"").prepare().await;
    let checked = gateway.command(&["check"]);
    assert_eq!(code(&checked), 1);
    assert!(said(&checked).contains("not built yet"), "{}", said(&checked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_certificate_is_told_with_path_and_reason_and_exit_2() {
    for (content, reason) in [(None, "No such file"), (Some("not a certificate"), "certificate")] {
        let gateway = Gateway::builder().stand_ins(1).prepare().await;
        if let Some(content) = content {
            fs::write(gateway.directory().join("gateway.crt"), content).unwrap();
            fs::write(gateway.directory().join("gateway.key"), content).unwrap();
        }
        let address = format!("address = \"{}\"\n", gateway.addresses().https);
        let text = fs::read_to_string(gateway.config()).unwrap();
        let text = text.replacen(
            &address,
            &format!("{address}tls = {{ certificate = \"gateway.crt\", key = \"gateway.key\" }}\n"),
            1,
        );
        fs::write(gateway.config(), text).unwrap();
        let served = gateway.command(&["serve"]);
        assert_eq!(code(&served), 2, "{}", said(&served));
        assert!(said(&served).contains("gateway.crt") && said(&served).contains(reason), "{}", said(&served));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_with_exit_2() {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    let addresses = gateway.addresses();
    for taken in [addresses.https, addresses.metrics, addresses.redirect] {
        let _held = TcpListener::bind(taken).unwrap();
        let served = gateway.command(&["serve"]);
        assert_eq!(code(&served), 2, "{}", said(&served));
        assert!(said(&served).contains(&taken.to_string()), "{taken} is not named: {}", said(&served));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_backend_url_names_its_entry() {
    let wrong = "[[backends]]\nid = \"broken\"\nurl = \"http://127.0.0.1:99999\"\n";
    let gateway = Gateway::builder().stand_ins(1).gateway_toml(wrong).prepare().await;
    let served = gateway.command(&["serve"]);
    assert_eq!(code(&served), 2);
    let text = said(&served);
    assert!(text.contains("99999") && text.contains("backends"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_made_listed_and_revoked_with_the_gateway_running_and_not() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    // Not running: the command opens the ledger itself.
    let before = gateway.new_key(&["--tenant", "acme", "--label", "made-before"]);
    gateway.start().await;
    let stranger = gateway.stranger();
    stranger.bearer(&before).get("/gate/me").await.expect(200);
    // Running: it speaks to the control socket.
    let during = gateway.new_key(&["--tenant", "bravo", "--user", "ada", "--label", "made-during"]);
    let me = stranger.bearer(&during).get("/gate/me").await.expect(200).json();
    assert_eq!((&me["tenant"], &me["user"]), (&json!("bravo"), &json!("ada")));
    let listed = gateway.command(&["key", "list"]);
    assert_eq!(code(&listed), 0);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> = listed.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(names, ["key", "tenant", "user", "state", "used", "label"], "{listed}");
    assert!(listed.contains("made-before") && listed.contains("made-during") && listed.contains("acme"), "{listed}");
    for key in [&before, &during] {
        let (id, secret) = key[3..].split_once('_').unwrap();
        assert!(listed.contains(id) && !listed.contains(secret), "{listed}");
    }
    let id = |key: &str| key.split('_').nth(1).unwrap().to_owned();
    assert_eq!(code(&gateway.command(&["key", "revoke", &id(&during)])), 0);
    stranger.bearer(&during).get("/gate/me").await.expect(401);
    gateway.terminate().await;
    assert_eq!(code(&gateway.command(&["key", "revoke", &id(&before)])), 0);
    assert_eq!(code(&gateway.command(&["key", "revoke", "000000000000"])), 1, "a key that is not there");
    gateway.start().await;
    gateway.stranger().bearer(&before).get("/gate/me").await.expect(401);
    let nobody = gateway.command(&["key", "create", "--tenant", "nobody"]);
    assert_eq!(code(&nobody), 1);
    assert!(said(&nobody).contains("nobody") && nobody.stdout.is_empty(), "{}", said(&nobody));
}

#[test]
fn policy_check_says_a_line_of_json_for_each_file() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &Value| fs::write(directory.path().join(name), content.to_string()).unwrap();
    write("good.json", &workflows::quick("x"));
    write("wide.json", &workflows::picture("x", 5000, 5000));
    write("envelope.json", &json!({"prompt": workflows::quick("x")}));
    fs::write(directory.path().join("broken.json"), "{\"1\": ").unwrap();
    let files = ["good.json", "wide.json", "envelope.json", "broken.json"];
    let checked = run_in(directory.path(), &[&["policy", "check", "--json"], &files[..]].concat());
    assert_eq!(code(&checked), 1, "{}", said(&checked));
    let lines: Vec<Value> =
        String::from_utf8(checked.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let verdicts: Vec<&str> = lines.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["allow", "deny", "allow", "deny"]);
    for (line, file) in lines.iter().zip(files) {
        assert_eq!(line["file"], file);
    }
    let violations = lines[1]["violations"].as_array().unwrap();
    let pointers: Vec<&str> = violations.iter().filter_map(|violation| violation["pointer"].as_str()).collect();
    assert!(
        pointers.contains(&"/1/inputs/width") && pointers.contains(&"/1/inputs/height"),
        "all at once: {pointers:?}"
    );
    assert_eq!(code(&run_in(directory.path(), &["policy", "check", "good.json"])), 0);
    assert_eq!(code(&run_in(directory.path(), &["policy", "check", "--policy", "strict", "good.json"])), 1);
    assert_eq!(code(&run_in(directory.path(), &["policy", "check", "absent.json"])), 2);
    assert_eq!(code(&run_in(directory.path(), &["policy", "check"])), 2, "usage");
}

#[test]
fn help_and_version_are_there_and_nonsense_is_usage() {
    let directory = tempfile::tempdir().unwrap();
    for command in [
        &["--help"][..],
        &["serve", "--help"],
        &["demo", "--help"],
        &["check", "--help"],
        &["key", "create", "--help"],
        &["policy", "check", "--help"],
    ] {
        let output = run_in(directory.path(), command);
        assert_eq!(code(&output), 0, "{command:?}");
        assert!(said(&output).contains("Usage"), "{command:?}");
    }
    assert!(said(&run_in(directory.path(), &["--version"])).contains("comfygate"));
    assert_eq!(code(&run_in(directory.path(), &["brew"])), 2);
    assert_eq!(code(&run_in(directory.path(), &["serve", "--config", "absent.toml"])), 2);
}

/// Ends its process when the test ends.
struct Demo(std::process::Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_prints_one_line_of_json_and_its_calls_work() {
    let (https, metrics) = (free_address(), free_address());
    let mut command = Command::new(binary());
    command.args(["demo", "--json", "--listen", &https.to_string(), "--metrics", &metrics.to_string()]);
    let mut demo = Demo(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let stdout = demo.0.stdout.take().unwrap();
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        line
    });
    let told: Value = serde_json::from_str(&comfygate_tests::deadline::done("the demo's line", line).await).unwrap();
    assert_eq!(told["url"], format!("https://{https}"));
    assert_eq!((told["tenants"].as_array().unwrap().len(), told["backends"].as_array().unwrap().len()), (2, 2));
    let key = |number: usize| told["tenants"][number]["key"].as_str().unwrap();
    let ca = told["ca_file"].as_str().unwrap().to_owned();
    let trust = comfygate_tests::eventually("the CA file", || {
        std::future::ready(comfygate_tests::tls::Trust::from_file(ca.as_ref()))
    })
    .await;
    let client = |key: &str| Client::new(https, trust.clone(), Arc::new(Vec::new())).bearer(key);
    comfygate_tests::eventually("it listens", || async { tokio::net::TcpStream::connect(https).await.ok().map(drop) })
        .await;
    // The three calls that it prints for people: submit, follow, fetch.
    let (first, second) = (client(key(0)), client(key(1)));
    let prompt = first
        .submit_with(json!({"prompt_id": "first-picture", "prompt": workflows::text_to_image("lighthouse")}))
        .await;
    let entry = first.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let url = comfygate_tests::client::files_of(&entry)[0]["url"].as_str().unwrap().to_owned();
    let picture = first.stranger().get(&first.path_of(&url)).await.expect(200);
    assert!(picture.body.starts_with(b"\x89PNG"));
    assert_eq!(second.get("/history").await.expect(200).json(), json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_file_serve_says_where_everything_is() {
    // Ports of the built-in defaults may be taken on this machine; then that is what it has to say.
    let backend = StandIn::start(gateway::fast()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:8443");
    let served = run_in(directory.path(), &["serve"]);
    assert_eq!(code(&served), 2, "{}", said(&served));
    assert!(said(&served).contains("127.0.0.1:8443"), "{}", said(&served));
    drop((held, backend));
}

#[test]
fn a_command_ends_quietly_with_whoever_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    // Lists are of a state that is there.
    let made = run_in(directory.path(), &["key", "create", "--tenant", "local"]);
    assert_eq!(code(&made), 0, "{}", said(&made));
    for arguments in [["check", "--json"], ["tenant", "list"]] {
        let mut command = Command::new(binary());
        command.current_dir(directory.path()).args(arguments).stderr(Stdio::piped());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command.stdout(writer).output().unwrap();
        assert_eq!(ended.status.code(), Some(141), "{arguments:?}: {}", said(&ended));
        assert!(!said(&ended).contains("anic") && !said(&ended).contains("pipe"), "{arguments:?}: {}", said(&ended));
    }
}
