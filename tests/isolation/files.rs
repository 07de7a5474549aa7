//! The bypass catalogue, entries 69 to 94, through the gateway: files that a graph, a form or a URL names.

use crate::wire::{posts, refused, strange_requests, two};
use comfygate_tests::client::files_of;
use comfygate_tests::{Client, Gateway, pictures, workflows};
use http::Method;
use serde_json::{Value, json};

/// Refused without a trace, each with 403.
async fn denied(gateway: &Gateway, client: &Client, graphs: Vec<Value>) {
    for graph in graphs {
        refused(gateway, client, posts(client, &["/prompt"], &json!({"prompt": graph})), &[403]).await;
    }
}

fn reading(class: &str, input: &str, value: Value) -> Value {
    let mut graph = workflows::quick("x");
    graph["5"] = json!({"class_type": class, "inputs": {input: value}});
    graph
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_069_a_graph_read_from_a_shared_picture_runs_as_the_readers_own() {
    let (gateway, acme, bravo) = two().await;
    let first = acme.submit(workflows::quick("shared/plan")).await;
    let of_acme = files_of(&acme.finished(&first).await).remove(0);
    let picture = acme.get(&acme.path_of(of_acme["url"].as_str().unwrap())).await.expect(200).body;
    let graph = pictures::texts(&picture)["prompt"].clone();
    let sent = gateway.stand_ins()[0].submissions()[0].clone();
    let upstream = sent["prompt"]["9"]["inputs"]["filename_prefix"].as_str().unwrap().to_owned();
    assert!(!graph.contains("acme") && !graph.contains("bravo"), "{graph}");
    // Whatever the picture tells, a reader gets no further with it than with the plain graph.
    let mut read: Value = serde_json::from_str(&graph).unwrap();
    for node in read.as_object_mut().unwrap().values_mut() {
        let inputs = node["inputs"].as_object_mut().unwrap();
        inputs.retain(|name, _| !sent_only(name));
    }
    let second = bravo.submit(read).await;
    let entry = bravo.finished(&second).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    assert!(!entry.to_string().contains("shared/plan_00002_"), "B's numbering is its own: {entry}");
    let messages = entry["status"]["messages"].to_string();
    assert!(messages.contains("\"execution_cached\",{\"nodes\":[]"), "a hit of A's cache: {messages}");
    let arrived = gateway.stand_ins()[0].submissions()[1].clone();
    assert_ne!(arrived["prompt"]["9"]["inputs"]["filename_prefix"], json!(upstream));
    assert_ne!(files_of(&entry)[0]["url"], of_acme["url"]);
}

/// Inputs that only the gateway writes.
fn sent_only(name: &str) -> bool {
    !["width", "height", "batch_size", "color", "images", "filename_prefix"].contains(&name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_069b_the_salt_of_anothers_picture_is_refused_or_replaced() {
    let (gateway, acme, bravo) = two().await;
    let first = acme.submit(workflows::quick("shared")).await;
    acme.finished(&first).await;
    let graph = gateway.stand_ins()[0].submissions()[0]["prompt"].clone();
    let salts = |graph: &Value| -> Vec<String> {
        let inputs = graph.as_object().unwrap().values().flat_map(|node| node["inputs"].as_object().unwrap());
        inputs.filter(|(name, _)| sent_only(name)).map(|(_, value)| value.to_string()).collect()
    };
    let of_acme = salts(&graph);
    assert!(!of_acme.is_empty(), "there is a salt: {graph}");
    let answer = bravo.post("/prompt", &json!({"prompt": graph})).await;
    if answer.status == 200 {
        bravo.finished(answer.json()["prompt_id"].as_str().unwrap()).await;
        let arrived = salts(&gateway.stand_ins()[0].submissions()[1]["prompt"]);
        assert!(!arrived.is_empty() && arrived.iter().all(|salt| !of_acme.contains(salt)), "{arrived:?}");
    } else {
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert_eq!(gateway.stand_ins()[0].submissions().len(), 1);
    }
}

/// Either refused, or what arrives is a clean name below the attempt's own folder.
async fn prefix_is_harmless(gateway: &Gateway, client: &Client, prefix: Value) {
    let before = gateway.stand_ins()[0].submissions().len();
    let mut graph = workflows::quick("x");
    graph["9"]["inputs"]["filename_prefix"] = prefix.clone();
    let answer = client.post("/prompt", &json!({"prompt": graph})).await;
    if answer.status != 200 {
        assert!([400, 403].contains(&answer.status.as_u16()), "{prefix}: {}", answer.text());
        assert_eq!(gateway.stand_ins()[0].submissions().len(), before, "{prefix}");
        return;
    }
    client.finished(answer.json()["prompt_id"].as_str().unwrap()).await;
    let arrived = gateway.stand_ins()[0].submissions()[before]["prompt"]["9"]["inputs"]["filename_prefix"].clone();
    let text = arrived.as_str().unwrap_or_else(|| panic!("{prefix} arrives as {arrived}"));
    let pieces: Vec<&str> = text.split('/').collect();
    assert!(
        pieces.len() > 1 && pieces.iter().all(|piece| !piece.is_empty() && *piece != "." && *piece != ".."),
        "{text}"
    );
    // Numbers that ComfyUI itself puts in, and nothing that it takes from other inputs.
    let rest = ["%width%", "%height%"].iter().fold(text.to_owned(), |text, token| text.replace(token, ""));
    assert!(!rest.contains(['%', '\\', '\0', ':', '~']) && !rest.starts_with('/'), "{prefix} arrives as {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_070_to_074_prefixes_stay_in_the_attempts_own_folder() {
    let (gateway, acme, bravo) = two().await;
    let done = acme.submit(workflows::quick("x")).await;
    acme.finished(&done).await;
    let foreign = gateway.stand_ins()[0].submissions()[0]["prompt"]["9"]["inputs"]["filename_prefix"].clone();
    let foreign = foreign.as_str().unwrap();
    let prefixes = [
        // 70: up.
        json!("../x"),
        json!("a/../../x"),
        json!("..\\..\\x"),
        json!("\u{ff0e}\u{ff0e}/x"),
        json!(".. /x"),
        // 71: into another's folder, and from the root.
        json!(format!("{foreign}")),
        json!(format!("../../{foreign}")),
        json!("/etc/cron.d/x"),
        json!("C:\\x"),
        json!("t/A/../B/x"),
        // 72: with no name.
        json!(""),
        json!("/"),
        json!("a/"),
        json!("."),
        json!(".."),
        json!("a/."),
        json!(" "),
        json!("\u{200b}"),
        // 73: by a link.
        json!(["1", 0]),
        json!({"__value__": "x"}),
        json!(7),
        // 74: to be filled in at the server.
        json!("%CLIPTextEncode.text%"),
        json!("%date:yyyy%/x"),
        json!("%width%x%height%"),
        json!("a%2Fb"),
        json!("%%"),
    ];
    for prefix in prefixes {
        prefix_is_harmless(&gateway, &bravo, prefix).await;
    }
    let outputs = gateway.stand_ins()[0].directory();
    assert!(!outputs.join("x_00001_.png").exists() && !outputs.parent().unwrap().join("x_00001_.png").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_075_to_077_classes_that_write_models_and_folders_or_read_pickles_are_closed() {
    let (gateway, acme, _) = two().await;
    let with = |class: &str, inputs: Value| {
        let mut graph = workflows::quick("x");
        graph["5"] = json!({"class_type": class, "inputs": inputs});
        graph
    };
    let graphs = vec![
        with("SaveLoRA", json!({"lora": ["1", 0], "prefix": "loras/x", "steps": 5})),
        with(
            "CheckpointSave",
            json!({"model": ["1", 0], "clip": ["1", 0], "vae": ["1", 0], "filename_prefix": "checkpoints/x"}),
        ),
        with("CLIPSave", json!({"clip": ["1", 0], "filename_prefix": "clip/x"})),
        with("VAESave", json!({"vae": ["1", 0], "filename_prefix": "vae/x"})),
        with("ModelSave", json!({"model": ["1", 0], "filename_prefix": "x"})),
        with(
            "SaveImageDataSetToFolder",
            json!({"images": ["1", 0], "folder_name": "/etc/cron.d", "filename_prefix": "x"}),
        ),
        with(
            "SaveImageTextDataSetToFolder",
            json!({"images": ["1", 0], "texts": "x", "folder_name": "../..", "filename_prefix": "x"}),
        ),
        with("LoadTrainingDataset", json!({"folder_name": "x"})),
        with("LoadImageDataSetFromFolder", json!({"folder": "t"})),
    ];
    denied(&gateway, &acme, graphs).await;
    for (name, content) in
        [("x.pkl", &b"\x80\x04\x95"[..]), ("x.png", b"\x80\x04\x95"), ("x.pt", b"PK\x03\x04"), ("x.safetensors", b"{}")]
    {
        acme.upload("/upload/image", &[], name, content).await.expect(415);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_078_to_080_files_are_names_of_the_callers_own_reachable_or_not() {
    let (gateway, acme, bravo) = two().await;
    let picture = pictures::png(8, 8, [1, 2, 3]);
    acme.upload("/upload/image", &[], "theirs.png", &picture).await.expect(200);
    let root = gateway.stand_ins()[0].directory().display().to_string();
    let names = [
        // 78: paths.
        "../../../etc/passwd",
        "/etc/hostname",
        "/dev/zero",
        "/proc/self/environ",
        "file:///etc/passwd",
        "\\\\host\\x.png",
        "C:\\x.png",
        "~/x.png",
        &format!("{root}/input/x.png"),
        "./theirs.png",
        "theirs.png/",
        "theirs.png\u{0}.png",
        // 79: another's, with suffixes that cut.
        "theirs.png",
        "theirs.png [input]",
        "theirs.png[input]",
        "theirs.pngX[input]",
        "theirs.png [INPUT]",
        "theirs.png [input] [input]",
        "theirs.png [temp]",
        "theirs.png [output]",
        " theirs.png",
        "theirs.png ",
        "t/theirs.png",
    ];
    for name in names {
        let graph = workflows::inverted(name, "x");
        refused(&gateway, &bravo, posts(&bravo, &["/prompt"], &json!({"prompt": graph})), &[400, 403]).await;
        // 80: not reachable from an output, and so fingerprinted all the same.
        let hidden = reading("LoadImage", "image", json!(name));
        refused(&gateway, &bravo, posts(&bravo, &["/prompt", "/api/prompt"], &json!({"prompt": hidden})), &[400, 403])
            .await;
    }
    // The same for its owner runs.
    let own = acme.submit(workflows::inverted("theirs.png", "x")).await;
    assert_eq!(acme.finished(&own).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_081_and_082_unchecked_paths_are_closed_and_texts_stay_texts() {
    let (gateway, acme, _) = two().await;
    let classes = [
        ("Load3D", "image", json!({"image": "../../x", "mask": "x"})),
        ("Load3DAnimation", "image", json!({})),
        ("RecordAudio", "audio", json!("../x.wav")),
        ("WebcamCapture", "image", json!("../x.png")),
        ("LoadLatent", "latent", json!("x.latent")),
    ];
    for (class, input, value) in classes {
        let graph = reading(class, input, value);
        // 400 where a value is malformed already.
        refused(&gateway, &acme, posts(&acme, &["/prompt"], &json!({"prompt": graph})), &[400, 403]).await;
    }
    let mut graph = workflows::text_to_image("x");
    graph["6"]["inputs"]["text"] = json!("embedding:../../x (embedding:/etc/passwd:1.2)");
    let prompt = acme.submit(graph).await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_083_to_085_a_view_is_a_name_of_the_callers_own_and_nothing_else() {
    let (gateway, acme, bravo) = two().await;
    let prompt = acme.submit(workflows::quick("secret/plan")).await;
    let name = files_of(&acme.finished(&prompt).await)[0]["filename"].as_str().unwrap().to_owned();
    acme.get(&format!("/view?filename={name}&subfolder=secret&type=output")).await.expect(200);
    gateway.settled().await;
    let before = gateway.stand_ins()[0].requests().len();
    let digest = "0".repeat(64);
    let queries = [
        // 83: what the name says of the folder.
        format!("filename={name}%20%5Boutput%5D&subfolder=secret&type=input"),
        format!("filename={name}%5Boutput%5D&subfolder=secret"),
        "filename=x.png%20%5Btemp%5D&type=output".to_owned(),
        // 84: where the folder leads.
        format!("filename={name}&subfolder=t%2FA%2F..%2FB&type=output"),
        format!("filename={name}&subfolder=%2Fsecret&type=output"),
        format!("filename={name}&subfolder=secret%2F..%2Fsecret&type=output"),
        format!("filename=secret%2F{name}&type=output"),
        format!("filename=..%2Fsecret%2F{name}&subfolder=x&type=output"),
        format!("filename={name}&subfolder=secret&type=OUTPUT"),
        format!("filename={name}&subfolder=secret&type=models"),
        // 85: by content.
        format!("filename=blake3:{digest}"),
        format!("filename=blake3%3A{digest}.png&type=input"),
        format!("filename=sha256%3A{digest}"),
    ];
    for query in &queries {
        let answer = bravo.get(&format!("/view?{query}")).await;
        assert!([400, 404].contains(&answer.status.as_u16()), "{query}: {}", answer.status);
        let none = bravo.get(&format!("/view?{}", query.replace(&name, &name.replace("plan", "none")))).await;
        assert_eq!(answer.without_request_id(), none.without_request_id(), "{query}");
    }
    assert_eq!(strange_requests(&gateway.stand_ins()[0], before), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_086_and_093_what_is_shown_runs_nothing() {
    let (_gateway, acme, _) = two().await;
    let picture = pictures::png(8, 8, [1, 2, 3]);
    for (name, content) in [
        ("x.svg", &b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"[..]),
        ("x.js", b"alert(1)"),
        ("x.xml", b"<?xml version='1.0'?><x/>"),
        ("x.pdf", b"%PDF-1.7 /JavaScript"),
        ("x.html", b"<script>1</script>"),
        ("x.mhtml", b"MIME-Version: 1.0"),
        ("x.svgz", b"\x1f\x8b\x08"),
        ("x.png", b"<svg onload='1'/>"),
        ("x.gif", b"GIF89a/*<script>*/=1"),
    ] {
        acme.upload("/upload/image", &[], name, content).await.expect(415);
    }
    // A sound picture under another's ending, and one with a page behind its end.
    let polyglot = [&picture[..], b"<html><script>alert(1)</script>"].concat();
    for (name, content) in [("p.png", &polyglot), ("q.svg", &picture), ("q.html", &picture), ("q.png.js", &picture)] {
        let answer = acme.upload("/upload/image", &[], name, content).await;
        if answer.status == 200 {
            let shown = acme.get(&format!("/view?filename={name}&type=input")).await.expect(200);
            assert_eq!(shown.header("content-type"), Some("image/png"), "{name}");
            assert_eq!(shown.header("x-content-type-options"), Some("nosniff"));
            assert!(
                shown.header("content-security-policy").unwrap().contains("sandbox"),
                "{name}: {:?}",
                shown.headers
            );
        } else {
            assert!([400, 415].contains(&answer.status.as_u16()), "{name}: {}", answer.text());
        }
    }
    acme.post_bytes("/userdata/x.html", "text/html", "<script>alert(1)</script>").await.expect(200);
    let shown = acme.get("/userdata/x.html").await.expect(200);
    assert_ne!(shown.header("content-type").unwrap().split(';').next(), Some("text/html"));
    assert!(shown.header("content-disposition").unwrap().starts_with("attachment"), "{:?}", shown.headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_087_to_092_an_upload_becomes_a_file_of_the_callers_own() {
    let (gateway, acme, bravo) = two().await;
    let (red, blue) = (pictures::png(8, 8, [255, 0, 0]), pictures::png(8, 8, [0, 0, 255]));
    let prompt = acme.submit(workflows::quick("x.png")).await;
    acme.finished(&prompt).await;
    acme.upload("/upload/image", &[("subfolder", "t")], "x.png", &red).await.expect(200);
    let seen = acme.get("/view?filename=x.png&subfolder=t&type=input").await.expect(200).body;
    // 87, 88, 89: beside it, over it, and by a path.
    bravo
        .upload("/upload/image", &[("subfolder", "t"), ("overwrite", "true"), ("type", "input")], "x.png", &blue)
        .await
        .expect(200);
    for (fields, name) in [
        (&[("type", "output"), ("overwrite", "true")][..], "x.png"),
        (&[("type", "OUTPUT")], "x.png"),
        (&[("subfolder", "../acme")], "x.png"),
        (&[("subfolder", "/t")], "x.png"),
        (&[("subfolder", "t\\..\\..")], "x.png"),
        (&[], "..\\x.png"),
        (&[], "../t/x.png"),
        (&[], "/t/x.png"),
        (&[], "x.png\u{0}"),
        (&[], "."),
    ] {
        let answer = bravo.upload("/upload/image", fields, name, &blue).await;
        assert!(
            [400, 415].contains(&answer.status.as_u16()),
            "{fields:?} {name:?}: {} {}",
            answer.status,
            answer.text()
        );
    }
    bravo.upload("/upload/image", &[], "x.png.gz", b"\x1f\x8b\x08\0").await.expect(415);
    assert_eq!(acme.get("/view?filename=x.png&subfolder=t&type=input").await.expect(200).body, seen);
    // 90, 91: parts that two readers read differently.
    let boundary = pictures::BOUNDARY;
    let part = |head: &str| format!("--{boundary}\r\n{head}\r\n\r\nx\r\n").into_bytes();
    let file = pictures::form(&[], "y.png", &blue);
    for head in [
        "Content-Disposition: form-data; name=\"subfolder\"\r\nContent-Transfer-Encoding: quoted-printable",
        "Content-Disposition: form-data; name=\"subfolder\"\r\nContent-Type: text/plain; charset=utf-7",
        "Content-Disposition: form-data; name=\"subfolder\"; name=\"type\"",
        "Content-Disposition: form-data; name*=utf-8''type",
        "Content-Disposition: attachment; name=\"type\"",
        "Content-Disposition: form-data; name=\"image\"",
    ] {
        let answer = bravo.post_form("/upload/image", [part(head), file.clone()].concat()).await;
        assert!([400, 415].contains(&answer.status.as_u16()), "{head}: {}", answer.text());
    }
    let twice = pictures::form(&[("subfolder", "a"), ("subfolder", "b")], "y.png", &blue);
    bravo.post_form("/upload/image", twice).await.expect(400);
    // 92: the picture under a mask is the caller's own.
    let mask = pictures::png_with_alpha(8, 8, [9, 9, 9], 5);
    for reference in [
        json!({"filename": "x.png", "subfolder": "", "type": "output"}),
        json!({"filename": "x.png_00001_.png", "type": "output"}),
        json!({"filename": "x.png [output]"}),
        json!({"filename": "../t/x.png", "type": "input"}),
        json!({"filename": "x.png", "subfolder": "../t", "type": "input"}),
        json!(["x.png"]),
    ] {
        let answer = bravo.upload("/upload/mask", &[("original_ref", &reference.to_string())], "m.png", &mask).await;
        assert!([400, 404].contains(&answer.status.as_u16()), "{reference}: {} {}", answer.status, answer.text());
    }
    let uploads = gateway.stand_ins()[0]
        .requests()
        .into_iter()
        .filter(|seen| seen.0 == Method::POST && seen.1.contains("upload"))
        .count();
    assert_eq!(uploads, 0, "nothing is given to a backend before a job wants it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_094_a_signature_is_bound_to_every_part_of_its_url() {
    let (_gateway, acme, bravo) = two().await;
    let prompt = acme.submit(workflows::quick("signed")).await;
    let url = files_of(&acme.finished(&prompt).await)[0]["url"].as_str().unwrap().to_owned();
    let path = acme.path_of(&url);
    let stranger = acme.stranger();
    stranger.get(&path).await.expect(200);
    let nothing = stranger.get("/gate/files/00000000-0000-4000-8000-000000000000").await;
    let (bare, query) = path.split_once('?').unwrap();
    // What is no part of it is not read: the file is the one that was signed, whole.
    let shown = stranger.get(&path).await.without_request_id();
    for more in ["channel=a", "preview=webp;10", "filename=other.png", "type=input", "rand=0.5"] {
        assert_eq!(stranger.get(&format!("{path}&{more}")).await.without_request_id(), shown, "{more}");
    }
    let mut changed = vec![bare.to_owned(), format!("{bare}?x=1")];
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap();
        let without: Vec<&str> = query.split('&').filter(|other| *other != pair).collect();
        changed.push(format!("{bare}?{}", without.join("&")));
        changed.push(path.replace(pair, &format!("{key}={value}0")));
        changed.push(path.replace(pair, &format!("{key}=")));
        let mut flipped = value.to_owned();
        let first = flipped.remove(0);
        changed.push(path.replace(pair, &format!("{key}={}{flipped}", if first == '1' { '2' } else { '1' })));
    }
    for path in &changed {
        for client in [&stranger, &bravo] {
            let answer = client.get(path).await;
            assert_eq!(answer.without_request_id(), nothing.without_request_id(), "{path}");
        }
    }
    assert_eq!(nothing.status, 404);
}
