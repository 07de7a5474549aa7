//! `comfygate policy …` by the real binary: verdicts on files of every kind, their account, what another policy changes, and policies learned from what ran.

use comfygate_tests::gateway::{fast, run_in, said};
use comfygate_tests::{Gateway, RawConnection, StandIn, eventually, workflows};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::future::ready;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("no exit code: {}", said(output)))
}

/// A directory with these files in it.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check(directory: &Path, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = run_in(directory, &[&["policy", "check", "--json"], arguments].concat());
    (code(&output), lines(&output))
}

/// A PNG whose text chunk holds a prompt, as ComfyUI writes it; the picture itself is left out.
fn png(prompt: &Value) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        [&u32::try_from(data.len()).unwrap().to_be_bytes(), kind.as_slice(), data, &[0; 4]].concat()
    };
    let text = [b"prompt\0".as_slice(), prompt.to_string().as_bytes()].concat();
    let parts = [chunk(b"IHDR", &[0; 13]), chunk(b"tEXt", &text), chunk(b"IEND", b"")];
    [b"\x89PNG\r\n\x1a\n".to_vec(), parts.concat()].concat()
}

fn page() -> Value {
    json!({"last_node_id": 1, "last_link_id": 0, "nodes": [{"id": 1, "type": "EmptyImage", "widgets_values": [64, 64, 1, 0]}], "links": [], "version": 0.4})
}

#[test]
fn a_line_of_json_has_the_same_members_whatever_the_answer_is() {
    let good = workflows::quick("x").to_string();
    let directory = directory(&[
        ("good.json", good.as_bytes()),
        ("body.json", json!({"prompt": workflows::quick("x"), "client_id": "me"}).to_string().as_bytes()),
        ("wide.json", workflows::picture("x", 5000, 5000).to_string().as_bytes()),
        ("broken.json", b"{\"1\": "),
        ("page.json", page().to_string().as_bytes()),
        ("made.png", &png(&workflows::quick("x"))),
        ("bare.png", b"\x89PNG\r\n\x1a\n"),
    ]);
    let files = ["good.json", "body.json", "made.png", "wide.json", "broken.json", "page.json", "bare.png"];
    let (exit, found) = check(directory.path(), &files);
    assert_eq!((exit, found.len()), (1, files.len()));
    for (line, file) in found.iter().zip(files) {
        let members: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, BTreeSet::from(["file", "verdict", "cost", "violations", "workflow"]));
        assert_eq!(line["file"], file);
        for violation in line["violations"].as_array().unwrap() {
            let members: BTreeSet<&str> = violation.as_object().unwrap().keys().map(String::as_str).collect();
            let wanted = ["code", "node", "class", "input", "pointer", "bound", "limit", "because"];
            assert_eq!(members, BTreeSet::from(wanted));
        }
    }
    for line in &found[..3] {
        assert_eq!((line["verdict"].as_str(), line["violations"].as_array().unwrap().len()), (Some("allow"), 0));
        assert!(line["cost"].as_f64().unwrap() >= 0.0);
        assert_eq!(line["workflow"]["9"]["class_type"], "SaveImage");
    }
    for (line, wanted) in found[3..].iter().zip(["cap_exceeded", "unexpected_end", "page_format", "no_workflow"]) {
        assert_eq!((line["verdict"].as_str(), &line["workflow"]), (Some("deny"), &Value::Null));
        let codes: Vec<&str> =
            line["violations"].as_array().unwrap().iter().filter_map(|one| one["code"].as_str()).collect();
        assert!(codes.contains(&wanted) || wanted == "unexpected_end" && codes.len() == 1, "{line}");
    }
    assert!(found[5]["violations"][0]["because"].as_str().unwrap().contains("Export (API)"), "{}", found[5]);
}

#[test]
fn pointers_lead_into_the_file_as_it_is() {
    let wide = workflows::picture("x", 5000, 64);
    let mut linked = wide.clone();
    linked["9"]["inputs"]["images"] = json!(["8", 0]);
    let directory = directory(&[
        ("bare.json", wide.to_string().as_bytes()),
        ("body.json", json!({ "prompt": wide }).to_string().as_bytes()),
        ("made.png", &png(&wide)),
        ("linked.json", linked.to_string().as_bytes()),
        ("twice.json", b"{\"a\":1,\"a\":2}"),
    ]);
    let (_, found) = check(directory.path(), &["bare.json", "body.json", "made.png", "linked.json", "twice.json"]);
    let pointers: Vec<&str> = found.iter().map(|line| line["violations"][0]["pointer"].as_str().unwrap()).collect();
    let wanted = ["/1/inputs/width", "/prompt/1/inputs/width", "/prompt/1/inputs/width", "/9/inputs/images", "/a"];
    assert_eq!(pointers, wanted);
    assert_eq!(wide.pointer(pointers[0]), Some(&json!(5000)));
    let because = found[4]["violations"][0]["because"].as_str().unwrap();
    assert!(because.starts_with("line 1, column 8: "), "{because}");
    let explained = run_in(directory.path(), &["policy", "explain", "--json", "bare.json"]);
    assert_eq!(lines(&explained)[0]["violations"][0]["pointer"], "/1/inputs/width");
}

#[test]
fn a_rewritten_workflow_is_accepted_and_rewritten_to_itself() {
    let directory = directory(&[("a.json", workflows::text_to_image("out/x").to_string().as_bytes())]);
    let (_, first) = check(directory.path(), &["a.json"]);
    fs::write(directory.path().join("b.json"), first[0]["workflow"].to_string()).unwrap();
    let (exit, second) = check(directory.path(), &["b.json"]);
    assert_eq!(exit, 0, "{}", second[0]);
    assert_eq!((&second[0]["workflow"], &second[0]["cost"]), (&first[0]["workflow"], &first[0]["cost"]));
}

#[test]
fn a_plain_name_is_taken_for_an_upload_and_an_odd_one_is_refused() {
    let directory = directory(&[]);
    for (name, allowed) in [
        ("me.png", true),
        ("folder/me.png", true),
        ("/etc/passwd", false),
        ("../me.png", false),
        ("./me.png", false),
        (".hidden.png", false),
        ("folder//me.png", false),
        ("http://example.com/me.png", false),
        ("C:\\me.png", false),
        ("", false),
    ] {
        fs::write(directory.path().join("a.json"), workflows::inverted(name, "x").to_string()).unwrap();
        let (exit, found) = check(directory.path(), &["a.json"]);
        assert_eq!(exit == 0, allowed, "{name}: {}", found[0]);
    }
}

#[test]
fn directories_stand_for_the_workflows_in_them_in_the_order_of_names() {
    let quick = workflows::quick("x").to_string();
    let directory = directory(&[
        ("all/b.json", quick.as_bytes()),
        ("all/a/z.json", quick.as_bytes()),
        ("all/c.PNG", &png(&workflows::quick("x"))),
        ("all/readme.md", b"no workflow"),
    ]);
    let (exit, found) = check(directory.path(), &["all"]);
    let files: Vec<&str> = found.iter().filter_map(|line| line["file"].as_str()).collect();
    assert_eq!((exit, files), (0, vec!["all/a/z.json", "all/b.json", "all/c.PNG"]));
}

#[test]
fn explain_tells_bounds_cost_reasons_and_the_lines_that_would_allow_it() {
    let mut linked = workflows::text_to_image("x");
    linked["11"] = json!({"class_type": "PrimitiveInt", "inputs": {"value": 4000}});
    linked["3"]["inputs"]["steps"] = json!(["11", 0]);
    let directory = directory(&[
        ("good.json", workflows::text_to_image("x").to_string().as_bytes()),
        ("steps.json", linked.to_string().as_bytes()),
    ]);
    let good = run_in(directory.path(), &["policy", "explain", "good.json"]);
    assert_eq!(code(&good), 0);
    for wanted in ["good.json: allowed; cost ", "4 steps; sdxl", "LATENT 512 × 512"] {
        assert!(stdout(&good).contains(wanted), "{wanted}\n{}", stdout(&good));
    }
    let refused = run_in(directory.path(), &["policy", "explain", "steps.json"]);
    assert_eq!(code(&refused), 1);
    for wanted in ["linked from 11 (PrimitiveInt.value)", "/prompt/3/inputs/steps", "steps = 4000"] {
        assert!(stdout(&refused).contains(wanted), "{wanted}\n{}", stdout(&refused));
    }
    let account = lines(&run_in(directory.path(), &["policy", "explain", "--json", "steps.json"])).remove(0);
    assert_eq!((account["file"].as_str(), account["verdict"].as_str()), (Some("steps.json"), Some("deny")));
    assert!(account["nodes"].as_array().unwrap().iter().any(|node| node["sampling"]["steps"] == 4000), "{account}");
}

#[test]
fn diff_tells_only_what_another_policy_changes() {
    let directory = directory(&[
        ("small.json", workflows::picture("x", 64, 64).to_string().as_bytes()),
        ("wide.json", workflows::picture("x", 900, 64).to_string().as_bytes()),
        (
            "narrow.toml",
            b"name = \"narrow\"\n[classes]\nallow = [\"EmptyImage\", \"SaveImage\"]\n[caps]\nwidth = 512\n",
        ),
        ("wider.toml", b"name = \"wider\"\n[classes]\nallow = [\"EmptyImage\", \"SaveImage\"]\n[caps]\nwidth = 1024\n"),
    ]);
    let diff = |arguments: &[&str]| run_in(directory.path(), &[&["policy", "diff"], arguments].concat());
    let changed = diff(&["narrow.toml", "wider.toml", "small.json", "wide.json"]);
    assert_eq!(code(&changed), 1);
    let text = stdout(&changed);
    assert!(text.contains("wide.json: deny → allow") && !text.contains("small.json"), "{text}");
    assert!(text.contains("2 files, 1 judged otherwise") && text.contains("cap_exceeded: 1 → 0 files"), "{text}");
    let json = lines(&diff(&["--json", "narrow.toml", "wider.toml", "small.json", "wide.json"]));
    assert_eq!((json.len(), &json[0]["verdict"]), (2, &json!(["deny", "allow"])));
    assert_eq!(json[0]["gone"][0]["pointer"], "/1/inputs/width");
    assert_eq!(json[1]["summary"]["allowed"], json!([1, 2]));
    assert_eq!(code(&diff(&["narrow.toml", "narrow.toml", "small.json", "wide.json"])), 0);
}

#[test]
fn a_learned_policy_accepts_what_it_was_learned_from_and_tells_how_well_it_generalises() {
    let mut broken = workflows::quick("x");
    broken["1"]["inputs"]["huh"] = json!(["9", 0]);
    let directory = directory(&[
        ("all/a.json", workflows::quick("x").to_string().as_bytes()),
        ("all/b.png", &png(&workflows::text_to_image("x"))),
        ("all/broken.json", broken.to_string().as_bytes()),
        ("all/page.json", page().to_string().as_bytes()),
    ]);
    let learned = run_in(directory.path(), &["policy", "learn", "all", "--name", "ours", "--output", "ours.toml"]);
    assert_eq!(code(&learned), 0, "{}", said(&learned));
    for wanted in ["left out: all/page.json", "left out: all/broken.json", "learned from 2 workflows"] {
        assert!(said(&learned).contains(wanted), "{wanted}\n{}", said(&learned));
    }
    let (exit, found) = check(directory.path(), &["--policy", "ours.toml", "all/a.json", "all/b.png"]);
    assert_eq!(exit, 0, "{found:?}");
    fs::write(directory.path().join("wide.json"), workflows::picture("x", 900, 64).to_string()).unwrap();
    assert_eq!(check(directory.path(), &["--policy", "ours.toml", "wide.json"]).0, 1);
    let again = run_in(directory.path(), &["policy", "learn", "all/b.png", "all/a.json", "--name", "ours"]);
    assert_eq!(stdout(&again), fs::read_to_string(directory.path().join("ours.toml")).unwrap());
    // What a gateway calls an upload at its backends, and so in the pictures that come of it.
    let pushed = workflows::inverted("t/q7x/0e357b66-fb75-4c72-b3d1-210795cfaa24.png", "t/q7x/0e35/x").to_string();
    fs::write(directory.path().join("pushed.json"), pushed).unwrap();
    let of_uploads = run_in(directory.path(), &["policy", "learn", "pushed.json"]);
    assert!(stdout(&of_uploads).contains("\"LoadImage\""), "{}", said(&of_uploads));
    fs::create_dir(directory.path().join("empty")).unwrap();
    for command in ["check", "explain", "learn"] {
        let none = run_in(directory.path(), &["policy", command, "empty"]);
        assert_eq!(code(&none), 2, "no workflow is no yes: {}", said(&none));
    }
    fs::write(directory.path().join("unknown.json"), r#"{"1": {"class_type": "NoSuchClass", "inputs": {}}}"#).unwrap();
    let nothing = run_in(directory.path(), &["policy", "learn", "unknown.json"]);
    assert!(code(&nothing) == 1 && said(&nothing).contains("[class_unknown]"), "{}", said(&nothing));
    let over = run_in(directory.path(), &["policy", "learn", "all", "--output", "ours.toml"]);
    assert_eq!(code(&over), 2, "a policy that is there is not written over");
    for side in [64, 128, 192, 256, 320, 384, 448, 512] {
        let name = format!("all/{side}.json");
        fs::write(directory.path().join(name), workflows::picture("x", side, side).to_string()).unwrap();
    }
    let checked = run_in(directory.path(), &["policy", "learn", "all", "--check", "0.3"]);
    assert_eq!(code(&checked), 0);
    assert!(said(&checked).contains("kept aside it accepts"), "{}", said(&checked));
    assert_eq!(code(&run_in(directory.path(), &["policy", "learn", "all/page.json"])), 1, "nothing to learn from");
    assert_eq!(code(&run_in(directory.path(), &["policy", "learn", "all", "--check", "1.5"])), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_learned_from_what_a_backend_ran() {
    let stand_in = StandIn::start(fast()).await.unwrap();
    let directory = directory(&[]);
    let address = stand_in.url();
    let learn = || run_in(directory.path(), &["policy", "learn", "--from-backend", &address]);
    assert_eq!(code(&learn()), 1, "it ran nothing yet");
    let body = json!({"prompt": workflows::quick("x")}).to_string();
    let request = format!(
        "POST /prompt HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        stand_in.addr(),
        body.len()
    );
    let mut connection = RawConnection::plain(stand_in.addr(), Ipv4Addr::LOCALHOST).await;
    connection.write(request.as_bytes()).await;
    assert_eq!(connection.response().await.unwrap().status, 200);
    let learned = eventually("it is in the history", || {
        let learned = learn();
        ready((code(&learned) == 0).then_some(learned))
    });
    let document = stdout(&learned.await);
    assert!(document.contains("\"EmptyImage\"") && !document.contains("KSampler"), "{document}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_in_the_pages_own_format_is_told_how_to_export_it() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    for body in [page(), json!({"prompt": page()})] {
        let answer = acme.post("/prompt", &body).await.expect(400);
        assert_eq!(answer.code(), "page_format", "{}", answer.text());
        assert!(answer.text().contains("Export (API)"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_learned_from_what_the_gateway_refused() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    acme.post("/prompt", &json!({"prompt": workflows::picture("x", 5000, 64)})).await.expect(403);
    let learned = eventually("the refusal is remembered", || {
        let learned = gateway.command(&["policy", "learn", "--from-refusals", "--headroom", "1"]);
        ready((code(&learned) == 0).then_some(learned))
    });
    let document = stdout(&learned.await);
    // Rounded up to a multiple of 64.
    assert!(document.contains("\"EmptyImage\"") && document.contains("width = 5056\n"), "{document}");
    assert_eq!(code(&gateway.command(&["policy", "learn", "--from-shadow"])), 1, "nothing ran in shadow mode");
}
