//! `comfygate adopt` and `comfygate tenant export`: a ComfyUI's folders become an owner's, and come back as they were.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::said;
use comfygate_tests::{Client, Gateway, workflows};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;

const SETTINGS: &str = "{\n    \"Comfy.ColorPalette\": \"dark\"\n}";

/// A ComfyUI's base directory as its page leaves it.
fn installation(gateway: &Gateway) -> PathBuf {
    let base = gateway.directory().join("comfyui");
    for (path, content) in [
        ("user/default/comfy.settings.json", SETTINGS),
        ("user/default/workflows/portrait.json", "{\"nodes\": []}"),
        ("user/default/workflows/old/.index.json", "{}"),
        ("user/default/subgraphs/blueprint.json", "{\"name\": \"b\"}"),
        ("user/comfyui.db", "not of this user"),
        ("input/example.png", "an input"),
        ("input/sub/mask.png", "a mask"),
        ("output/ComfyUI_00042_.png", "picture 42"),
        ("output/ComfyUI_00041_.png", "picture 41"),
        ("output/series/a_1_00007_.png", "picture 7"),
        ("output/_output_images_will_be_put_here", ""),
        ("models/checkpoints/big.safetensors", "not adopted"),
    ] {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    base
}

fn adopt(gateway: &Gateway, base: &Path, more: &[&str]) -> Output {
    let base = base.display().to_string();
    gateway.command(&[&["adopt", "--tenant", "acme", "--comfyui", &base, "--json"], more].concat())
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(output)))
}

fn counts(report: &Value, what: &str) -> u64 {
    report["places"].as_object().unwrap().values().map(|place| place[what].as_u64().unwrap()).sum()
}

/// Path → content of every file below a directory.
fn tree(base: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![base.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.strip_prefix(base).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

async fn sees_everything(acme: &Client) {
    assert_eq!(acme.get("/settings").await.expect(200).json(), json!({"Comfy.ColorPalette": "dark"}));
    let workflows = acme.get("/api/userdata?dir=workflows&recurse=true&full_info=true").await.expect(200).json();
    assert_eq!(workflows[0]["path"], "portrait.json");
    let blueprint = acme.get("/api/userdata/subgraphs%2Fblueprint.json").await.expect(200).json();
    assert_eq!(blueprint, json!({"name": "b"}));
    assert_eq!(acme.get("/view?filename=example.png&type=input").await.expect(200).text(), "an input");
    assert_eq!(acme.get("/view?filename=mask.png&type=input&subfolder=sub").await.expect(200).text(), "a mask");
    assert_eq!(acme.get("/view?filename=ComfyUI_00042_.png").await.expect(200).text(), "picture 42");
    assert_eq!(acme.get("/history").await.expect(200).json(), json!({}), "no history is invented");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_adopts_a_comfyui_and_numbers_go_on_after_its_pictures() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let base = installation(&gateway);
    let before = tree(&base);
    let dry = adopt(&gateway, &base, &["--dry-run"]);
    assert!(dry.status.success(), "{}", said(&dry));
    let dry = report(&dry);
    assert_eq!((counts(&dry, "new"), counts(&dry, "bytes")), (10, 107), "{dry}");
    acme.get("/view?filename=example.png&type=input").await.expect(404);
    let done = adopt(&gateway, &base, &[]);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!((counts(&report(&done), "new"), counts(&report(&done), "kept")), (10, 0));
    assert_eq!(tree(&base), before, "the originals stay as they are");
    sees_everything(&acme).await;
    // A later version of the page asks for its files by the name that ComfyUI would give the next picture.
    let prompt = acme.submit(workflows::quick("ComfyUI")).await;
    assert_eq!(files_of(&acme.finished(&prompt).await)[0]["filename"], "ComfyUI_00043_.png");
    for (prefix, name) in [("series/a_1", "a_1_00008_.png"), ("series/a", "a_00002_.png")] {
        let prompt = acme.submit(workflows::quick(prefix)).await;
        assert_eq!(files_of(&acme.finished(&prompt).await)[0]["filename"], name);
    }
    let line = gateway.audited("the adoption", |line| line["event"] == "adopted" && line["place"] == "output").await;
    assert_eq!((&line["owner"]["tenant"], &line["files"]), (&json!("acme"), &json!(4)));
    // Another tenant, and another user of the same one, see nothing of it.
    let user = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", "ann"]));
    for other in [&gateway.client("bravo"), &user] {
        assert_eq!(other.get("/userdata?dir=.&recurse=true").await.expect(200).json(), json!([]));
        assert_eq!(other.get("/settings").await.expect(200).json(), json!({}));
        other.get("/view?filename=ComfyUI_00042_.png").await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_adoption_adds_only_what_is_new_and_never_touches_what_the_owner_changed() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let base = installation(&gateway);
    assert!(adopt(&gateway, &base, &[]).status.success());
    acme.post_bytes("/userdata/workflows%2Fportrait.json", "text/plain", "mine").await.expect(200);
    fs::write(base.join("user/default/workflows/portrait.json"), "changed at the source").unwrap();
    fs::write(base.join("user/default/workflows/new.json"), "{}").unwrap();
    fs::write(base.join("user/default/subgraphs/blueprint.json"), "{\"name\": \"b2\"}").unwrap();
    fs::write(base.join("output/ComfyUI_00050_.png"), "picture 50").unwrap();
    let again = adopt(&gateway, &base, &[]);
    assert!(again.status.success(), "{}", said(&again));
    let again = report(&again);
    let told = ["new", "updated", "same", "kept"].map(|what| counts(&again, what));
    assert_eq!(told, [2, 1, 8, 1], "{again}");
    assert_eq!(again["kept"], json!(["user/default/workflows/portrait.json"]));
    assert_eq!(acme.get("/userdata/workflows%2Fportrait.json").await.expect(200).text(), "mine");
    assert_eq!(acme.get("/userdata/subgraphs%2Fblueprint.json").await.expect(200).json(), json!({"name": "b2"}));
    let prompt = acme.submit(workflows::quick("ComfyUI")).await;
    assert_eq!(files_of(&acme.finished(&prompt).await)[0]["filename"], "ComfyUI_00051_.png");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_adopted_is_exported_as_it_was_whether_the_gateway_runs_or_not() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    let base = installation(&gateway);
    let done = adopt(&gateway, &base, &[]);
    assert!(done.status.success(), "{}", said(&done));
    let (stopped, running) = (gateway.directory().join("stopped"), gateway.directory().join("running"));
    let export = |gateway: &Gateway, to: &Path| {
        gateway.command(&["tenant", "export", "--tenant", "acme", "--to", &to.display().to_string()])
    };
    let exported = export(&gateway, &stopped);
    assert!(exported.status.success(), "{}", said(&exported));
    gateway.start().await;
    gateway.backends_are_up().await;
    sees_everything(&gateway.client("acme")).await;
    let exported = export(&gateway, &running);
    assert!(exported.status.success(), "{}", said(&exported));
    let mut expected = tree(&base);
    expected.retain(|path, _| !path.starts_with("models/") && path != "user/comfyui.db");
    for to in [&stopped, &running] {
        assert_eq!(tree(to), expected, "{}", to.display());
    }
    let time = |base: &Path| fs::metadata(base.join("output/ComfyUI_00042_.png")).unwrap().modified().unwrap();
    assert!(time(&base).duration_since(time(&running)).unwrap().as_millis() < 1, "to the millisecond");
    // And it can be adopted again, by another.
    let again = running.display().to_string();
    let other = gateway.command(&["adopt", "--tenant", "bravo", "--comfyui", &again, "--json"]);
    assert!(other.status.success(), "{}", said(&other));
    sees_everything(&gateway.client("bravo")).await;
    let refused = export(&gateway, &running);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("not empty"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_keeps_on_its_backend_is_adopted_by_nobody() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let base = installation(&gateway);
    for path in ["input/t/somebody/x.png", "output/t/somebody/job-1/y_00001_.png", "output/pets/t/z.png"] {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "a picture").unwrap();
    }
    report(&adopt(&gateway, &base, &[]));
    let acme = gateway.client("acme");
    acme.get("/view?filename=z.png&type=output&subfolder=pets/t").await.expect(200);
    acme.get("/view?filename=x.png&type=input&subfolder=t/somebody").await.expect(404);
    acme.get("/view?filename=y_00001_.png&type=output&subfolder=t/somebody/job-1").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_out_of_the_directory_is_not_followed_and_reported() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let base = installation(&gateway);
    fs::write(gateway.directory().join("elsewhere"), "secret").unwrap();
    symlink(gateway.directory().join("elsewhere"), base.join("output/leak.png")).unwrap();
    symlink(gateway.directory(), base.join("output/up")).unwrap();
    symlink(base.join("input/example.png"), base.join("output/inside.png")).unwrap();
    let done = adopt(&gateway, &base, &[]);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    let done = report(&done);
    let refused: Vec<_> = done["refused"].as_array().unwrap().iter().map(|entry| &entry["path"]).collect();
    assert_eq!(refused, ["output/up", "output/leak.png"], "{done}");
    acme.get("/view?filename=leak.png").await.expect(404);
    assert_eq!(acme.get("/view?filename=inside.png").await.expect(200).text(), "an input");
    // A folder that is a link to elsewhere has to be named.
    fs::remove_dir_all(base.join("input")).unwrap();
    symlink(gateway.directory(), base.join("input")).unwrap();
    let refused = adopt(&gateway, &base, &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("--input-directory"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_adopted_is_told_with_its_reason() {
    let gateway =
        Gateway::builder().stand_ins(1).gateway_toml("[limits]\nuserdata_bytes_max = \"64KiB\"\n").start().await;
    let base = installation(&gateway);
    fs::write(base.join("user/default/large.json"), vec![b'x'; (64 << 10) + 1]).unwrap();
    fs::write(base.join("output/odd\u{202e}gpj.exe"), "x").unwrap();
    let done = adopt(&gateway, &base, &[]);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    let report = report(&done);
    assert_eq!((counts(&report, "new"), report["refused_count"].as_u64()), (10, Some(2)), "{report}");
    let nobody = gateway.command(&["adopt", "--tenant", "nobody", "--comfyui", &base.display().to_string()]);
    assert_eq!(nobody.status.code(), Some(1));
    let empty = gateway.directory().join("empty");
    fs::create_dir(&empty).unwrap();
    let refused = adopt(&gateway, &empty, &[]);
    assert!(refused.status.code() == Some(2) && said(&refused).contains("user/default"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_input_is_offered_and_can_be_loaded() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let made = acme.submit(workflows::quick("made")).await;
    acme.finished(&made).await;
    let picture = acme.get("/view?filename=made_00001_.png").await.expect(200).body;
    let base = installation(&gateway);
    fs::write(base.join("input/photo.png"), &picture).unwrap();
    assert!(adopt(&gateway, &base, &[]).status.success());
    let info = acme.get("/object_info/LoadImage").await.expect(200).json();
    assert_eq!(info["LoadImage"]["input"]["required"]["image"][0], json!(["photo.png"]), "{info}");
    let load = |name: &str| {
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
        })
    };
    let loaded = acme.submit(load("photo.png")).await;
    assert_eq!(acme.finished(&loaded).await["status"]["status_str"], "success");
    let bravo = gateway.client("bravo");
    let (foreign, missing) = (
        bravo.post("/prompt", &json!({"prompt": load("photo.png")})).await,
        bravo.post("/prompt", &json!({"prompt": load("phot0.png")})).await,
    );
    assert_eq!((foreign.status, foreign.code()), (missing.status, missing.code()));
    assert_eq!(foreign.status, 403);
}
