//! Uploads: files of one's own that workflows run on, wherever they run.

use comfygate_tests::client::files_of;
use comfygate_tests::pictures::{BOUNDARY, form, pixels, png, png_with_alpha, size};
use comfygate_tests::{Client, Gateway, StandIn, eventually, workflows};
use serde_json::{Value, json};
use std::path::Path;

const RED: [u8; 3] = [255, 0, 0];
const BLUE: [u8; 3] = [0, 0, 255];
/// What red and blue become when they are turned round, as EmptyImage takes them.
const RED_INVERTED: u64 = 0x00_ffff;
const BLUE_INVERTED: u64 = 0xff_ff00;

/// Uploads an input that has to be taken, and gives its name.
async fn uploaded(client: &Client, name: &str, content: &[u8]) -> String {
    let answer = client.upload("/upload/image", &[], name, content).await.expect(200).json();
    assert_eq!((&answer["subfolder"], &answer["type"]), (&json!(""), &json!("input")));
    answer["name"].as_str().unwrap().to_owned()
}

/// The bytes of a finished job's first picture.
async fn picture_of(client: &Client, prompt: &str) -> Vec<u8> {
    let entry = client.finished(prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let file = files_of(&entry).remove(0);
    client.get(&client.path_of(file["url"].as_str().unwrap())).await.expect(200).body.to_vec()
}

/// A picture of one colour as the backends write it.
async fn plain(client: &Client, width: u64, height: u64, colour: u64) -> Vec<u8> {
    let mut workflow = workflows::picture("plain", width, height);
    workflow["1"]["inputs"]["color"] = json!(colour);
    let prompt = client.submit(workflow).await;
    pixels(&picture_of(client, &prompt).await)
}

fn pushes(stand_in: &StandIn) -> usize {
    stand_in.requests().iter().filter(|(method, path, _)| method == "POST" && path.starts_with("/upload/")).count()
}

fn spooled(gateway: &Gateway) -> usize {
    std::fs::read_dir(gateway.state().join("blobs/tmp")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_runs_on_the_uploaded_picture_at_either_backend_and_each_is_given_it_once() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let name = uploaded(&acme, "holiday é.png", &png(40, 30, RED)).await;
    assert_eq!(name, "holiday é.png");
    let mut prompts = Vec::new();
    for number in 0..4 {
        let mut workflow = workflows::inverted(&name, "turned");
        workflow["3"] = json!({"class_type": "GateProbeSleep", "inputs": {"image": ["2", 0], "steps": 10 + number, "tick_ms": 100, "preview": false}});
        workflow["9"]["inputs"]["images"] = json!(["3", 0]);
        prompts.push(acme.submit(workflow).await);
    }
    let expected = plain(&acme, 40, 30, RED_INVERTED).await;
    for prompt in &prompts {
        let picture = picture_of(&acme, prompt).await;
        assert_eq!(size(&picture), (40, 30));
        assert_eq!(pixels(&picture), expected, "it is the picture that was uploaded");
    }
    for stand_in in gateway.stand_ins() {
        assert!(!stand_in.executed().is_empty(), "both were used");
        assert_eq!(pushes(stand_in), 1);
        let sent = stand_in.submissions()[0].to_string();
        assert!(!sent.contains("holiday"), "the caller's name stays here: {sent}");
    }
    assert_eq!(spooled(&gateway), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_given_as_comfyui_gives_them() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let (red, blue) = (png(8, 8, RED), png(8, 8, BLUE));
    assert_eq!(uploaded(&acme, "a.png", &red).await, "a.png");
    assert_eq!(uploaded(&acme, "a.png", &red).await, "a.png", "the same content is the same file");
    assert_eq!(uploaded(&acme, "a.png", &blue).await, "a (1).png");
    assert_eq!(uploaded(&acme, "a.png", &blue).await, "a (1).png");
    let fields = [("subfolder", "clipspace/x/"), ("type", "temp"), ("overwrite", "false")];
    for path in ["/upload/image", "/api/upload/image"] {
        let answer = acme.upload(path, &fields, "a.png", &blue).await.expect(200).json();
        assert_eq!(answer, json!({"name": "a.png", "subfolder": "clipspace/x", "type": "temp"}));
    }
    let view = |query: &'static str| acme.get(query);
    assert_eq!(view("/view?filename=a.png&type=input").await.expect(200).body, red);
    assert_eq!(view("/view?filename=a.png&type=temp&subfolder=clipspace%2Fx").await.expect(200).body, blue);
    acme.upload("/upload/image", &[("overwrite", "true")], "a.png", &blue).await.expect(200);
    let now = view("/view?filename=a.png&type=input").await.expect(200);
    assert_eq!((&now.body[..], now.header("content-type")), (&blue[..], Some("image/png")));
    assert_eq!(pushes(&gateway.stand_ins()[0]), 0, "nobody has asked for it yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_job_keeps_the_file_that_it_was_accepted_with_also_over_a_restart_of_the_gateway() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let name = uploaded(&acme, "a.png", &png(24, 16, RED)).await;
    let expected = plain(&acme, 24, 16, RED_INVERTED).await;
    let long = acme.submit(workflows::slow("long", 150, 400, false)).await;
    acme.running(&long).await;
    let held = acme.submit(workflows::inverted(&name, "held")).await;
    acme.upload("/upload/image", &[("overwrite", "1")], "a.png", &png(24, 16, BLUE)).await.expect(200);
    gateway.restart().await;
    let acme = gateway.client("acme");
    eventually("the long job is stopped", || async {
        acme.post("/interrupt", &json!({})).await.expect(200);
        let history = acme.get(&format!("/history/{long}")).await.json();
        history.get(&long).map(drop)
    })
    .await;
    assert_eq!(pixels(&picture_of(&acme, &held).await), expected);
    let fresh = acme.submit(workflows::inverted(&name, "fresh")).await;
    let fresh = pixels(&picture_of(&acme, &fresh).await);
    assert_eq!(fresh, plain(&acme, 24, 16, BLUE_INVERTED).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_was_restarted_or_lost_its_files_is_given_them_again() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, stand_in) = (gateway.client("acme"), &gateway.stand_ins()[0]);
    let name = uploaded(&acme, "a.png", &png(24, 16, RED)).await;
    let run = async |prefix: &str| {
        let prompt = acme.submit(workflows::inverted(&name, prefix)).await;
        picture_of(&acme, &prompt).await
    };
    let first = run("one").await;
    assert_eq!((pushes(stand_in), pixels(&run("two").await)), (1, pixels(&first)));
    assert_eq!(pushes(stand_in), 1, "it has it");
    let inputs = stand_in.directory().join("input/t");
    std::fs::remove_dir_all(&inputs).unwrap();
    assert_eq!(pixels(&run("three").await), pixels(&first));
    assert_eq!(pushes(stand_in), 2, "it said that it lacks it");
    stand_in.kill();
    gateway.backend_is(0, false).await;
    std::fs::remove_dir_all(&inputs).unwrap();
    stand_in.restart().await.unwrap();
    gateway.backend_is(0, true).await;
    assert_eq!(pixels(&run("four").await), pixels(&first));
    assert!(inputs.is_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_have_two_files_of_one_name_and_one_content_is_two_files_too() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    uploaded(&acme, "a.png", &png(24, 16, RED)).await;
    uploaded(&bravo, "a.png", &png(16, 24, BLUE)).await;
    uploaded(&acme, "same.png", &png(4, 4, BLUE)).await;
    uploaded(&bravo, "same.png", &png(4, 4, BLUE)).await;
    let mut sizes = Vec::new();
    for client in [&acme, &bravo] {
        let prompt = client.submit(workflows::inverted("a.png", "own")).await;
        sizes.push(size(&picture_of(client, &prompt).await));
        let prompt = client.submit(workflows::inverted("same.png", "same")).await;
        picture_of(client, &prompt).await;
    }
    assert_eq!(sizes, [(24, 16), (16, 24)]);
    let named = |number: usize| {
        let sent = gateway.stand_ins()[0].submissions();
        sent[number]["prompt"]["1"]["inputs"]["image"].as_str().unwrap().to_owned()
    };
    assert_ne!(named(1), named(3), "no tenant's job hits what another's left in the cache");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_previews_and_names_from_metadata_are_inputs_of_their_owner() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let first = acme.submit(workflows::picture("series/one", 32, 20)).await;
    picture_of(&acme, &first).await;
    let reused = workflows::inverted("series/one_00001_.png [output]", "again");
    let prompt = acme.submit(reused.clone()).await;
    assert_eq!(size(&picture_of(&acme, &prompt).await), (32, 20));
    bravo.post("/prompt", &json!({"prompt": reused})).await.expect(403);
    // The name that the backend had stands in the picture's metadata, from where the page reads a workflow back.
    let sent = gateway.stand_ins()[0].submissions();
    let upstream = sent[1]["prompt"]["1"]["inputs"]["image"].as_str().unwrap().to_owned();
    assert!(upstream.starts_with("t/"), "{upstream}");
    let prompt = acme.submit(workflows::inverted(&upstream, "from metadata")).await;
    assert_eq!(size(&picture_of(&acme, &prompt).await), (32, 20));
    let other_ending = upstream.replace(".png", ".jpg");
    for (client, name) in [(&acme, &other_ending), (&bravo, &upstream)] {
        let answer = client.post("/prompt", &json!({"prompt": workflows::inverted(name, "x")})).await.expect(403);
        assert!(answer.text().contains("no such file"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_a_workflow_names_and_that_is_not_there_is_refused() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    uploaded(&acme, "a.png", &png(8, 8, RED)).await;
    for name in ["b.png", "a.png [output]", "a.png [temp]", "x/a.png", "A.png", "a.png "] {
        let answer = acme.post("/prompt", &json!({"prompt": workflows::inverted(name, "x")})).await.expect(403);
        assert!(answer.text().contains("file_not_found"), "{name}: {}", answer.text());
    }
    for name in ["a.png[input]", "../a.png", "/etc/passwd", "x/../a.png"] {
        acme.post("/prompt", &json!({"prompt": workflows::inverted(name, "x")})).await.expect(403);
    }
    let prompt = acme.submit(workflows::inverted("a.png [input]", "x")).await;
    picture_of(&acme, &prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_of_an_uploaded_picture_counts_in_the_policy() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    // A header is enough: nothing here reads the pixels.
    let claims = |width: u32, height: u32| {
        let mut picture = png(1, 1, RED);
        picture[16..20].copy_from_slice(&width.to_be_bytes());
        picture[20..24].copy_from_slice(&height.to_be_bytes());
        picture
    };
    let refused = acme.upload("/upload/image", &[], "bomb.png", &claims(60_000, 60_000)).await.expect(413);
    assert_eq!(refused.code(), "too_many_pixels");
    uploaded(&acme, "large.png", &claims(12_000, 12_000)).await;
    let answer = acme.post("/prompt", &json!({"prompt": workflows::inverted("large.png", "x")})).await.expect(403);
    assert!(answer.text().contains("size_exceeded"), "{}", answer.text());
    uploaded(&acme, "sound.mp3", b"ID3\x04\0\0\0\0\0\0").await;
    let answer = acme.post("/prompt", &json!({"prompt": workflows::inverted("sound.mp3", "x")})).await.expect(403);
    assert!(answer.text().contains("size_exceeded"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backend_says_of_a_file_is_told_by_the_owners_name() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let mut broken = png(8, 8, RED);
    let at = broken.windows(4).position(|window| window == b"IDAT").unwrap();
    broken[at + 4] = 0;
    uploaded(&acme, "broken.png", &broken).await;
    let prompt = acme.submit(workflows::inverted("broken.png", "x")).await;
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "error");
    let text = entry["status"].to_string();
    let sent = gateway.stand_ins()[0].submissions()[0]["prompt"]["1"]["inputs"]["image"].as_str().unwrap().to_owned();
    assert!(text.contains("'broken.png'") && !text.contains(&sent) && !text.contains("t/"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_files_are_listed_newest_first_and_offered_in_the_nodes_lists() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    for name in ["b.png", "a.png", "c.png"] {
        uploaded(&acme, name, &png(8, 8, [name.as_bytes()[0], 0, 0])).await;
    }
    uploaded(&acme, "song.mp3", b"ID3\x04\0\0\0\0\0\0").await;
    acme.upload("/upload/image", &[("subfolder", "clipspace")], "hidden.png", &png(8, 8, BLUE)).await.expect(200);
    assert_eq!(
        acme.get("/internal/files/input").await.expect(200).json(),
        json!(["song.mp3", "c.png", "a.png", "b.png"])
    );
    assert_eq!(acme.get("/internal/files/temp").await.expect(200).json(), json!([]));
    acme.get("/internal/files/models").await.expect(400);
    assert_eq!(bravo.get("/internal/files/input").await.expect(200).json(), json!([]));
    let offered = async |client: &Client, path: &str| {
        let info = client.get(path).await.expect(200).json();
        info["LoadImage"]["input"]["required"]["image"][0].clone()
    };
    for path in ["/object_info", "/object_info/LoadImage", "/api/object_info"] {
        assert_eq!(offered(&acme, path).await, json!(["a.png", "b.png", "c.png"]), "{path}");
        assert_eq!(offered(&bravo, path).await, json!([]), "{path}");
    }
    uploaded(&bravo, "mine.png", &png(8, 8, BLUE)).await;
    assert_eq!(offered(&bravo, "/object_info").await, json!(["mine.png"]), "at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mask_is_put_into_an_own_picture_by_a_backend() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    uploaded(&acme, "a.png", &png(12, 10, RED)).await;
    let mask = png_with_alpha(12, 10, BLUE, 55);
    let reference = json!({"filename": "a.png", "subfolder": "", "type": "input"}).to_string();
    let fields = [("type", "input"), ("subfolder", "clipspace"), ("original_ref", reference.as_str())];
    let answer = acme.upload("/upload/mask", &fields, "clipspace-mask-1.png", &mask).await.expect(200).json();
    assert_eq!(answer, json!({"name": "clipspace-mask-1.png", "subfolder": "clipspace", "type": "input"}));
    let made = acme.get("/view?filename=clipspace-mask-1.png&type=input&subfolder=clipspace").await.expect(200);
    assert_eq!((size(&made.body), made.body[25]), ((12, 10), 6), "it has an alpha channel now");
    // Colours of the original, alpha of the mask.
    let turned = acme.submit(workflows::inverted("clipspace/clipspace-mask-1.png [input]", "turned")).await;
    let turned = pixels(&picture_of(&acme, &turned).await);
    assert_eq!(turned, plain(&acme, 12, 10, RED_INVERTED).await);
    let masked = json!({
        "1": {"class_type": "LoadImageMask", "inputs": {"image": "clipspace/clipspace-mask-1.png", "channel": "alpha"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mask"}},
    });
    let masked = acme.submit(masked).await;
    assert_eq!(pixels(&picture_of(&acme, &masked).await), plain(&acme, 12, 10, 0xc8_c8c8).await);
    assert_eq!(pushes(&gateway.stand_ins()[0]), 2, "the original and the mask: what was made there stays there");
    let refusals = [
        (json!({"filename": "b.png", "type": "input"}), &mask, 404),
        (json!({"filename": "a.png"}), &mask, 404),
        (json!({"filename": "../a.png", "type": "input"}), &mask, 404),
        (json!({"filename": "a.png", "type": "models"}), &mask, 400),
        (json!("a.png"), &mask, 400),
        (json!({"filename": "a.png", "type": "input"}), &png_with_alpha(10, 12, BLUE, 5), 400),
    ];
    for (reference, mask, status) in refusals {
        let text = reference.to_string();
        let answer = acme.upload("/upload/mask", &[("original_ref", &text)], "m.png", mask).await;
        assert_eq!(answer.status, status, "{text}: {}", answer.text());
    }
    assert_eq!(spooled(&gateway), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_limit_is_taken_and_a_byte_more_is_not() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nupload_bytes_max = \"64KiB\"").start().await;
    let acme = gateway.client("acme");
    let padded = |length: usize| [png(4, 4, RED), vec![0; length]].concat()[..length].to_vec();
    assert_eq!(acme.get("/features").await.expect(200).json()["max_upload_size"], 65_536);
    uploaded(&acme, "fits.png", &padded(65_536)).await;
    let over = acme.upload("/upload/image", &[], "over.png", &padded(65_537)).await.expect(413);
    assert_eq!(over.code(), "body_too_large");
    acme.upload("/upload/image", &[], "over.png", &padded(300_000)).await.expect(413);
    assert_eq!(acme.get("/internal/files/input").await.json(), json!(["fits.png"]));
    assert_eq!(spooled(&gateway), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_uploads_have_their_room_and_no_more() {
    // What stands behind a picture's end counts as well.
    let picture = |colour: u8| [png(4, 4, [colour, 0, 0]), vec![0; 2048]].concat()[..2048].to_vec();
    let room = "policy = \"default\"\nstorage_bytes_max = \"4KiB\"";
    let gateway = Gateway::builder().stand_ins(1).plan(room).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    uploaded(&acme, "1.png", &picture(1)).await;
    uploaded(&acme, "2.png", &picture(2)).await;
    let refused = acme.upload("/upload/image", &[], "3.png", &picture(3)).await.expect(413);
    assert_eq!(refused.code(), "storage_full");
    acme.upload("/upload/image", &[("overwrite", "true")], "2.png", &picture(3)).await.expect(413);
    uploaded(&bravo, "1.png", &picture(1)).await;
    // A mask is small and what it makes is not: nothing is made that may have no room.
    let reference = json!({"filename": "1.png", "type": "input"}).to_string();
    let mask =
        bravo.upload("/upload/mask", &[("original_ref", &reference)], "m.png", &png_with_alpha(4, 4, RED, 9)).await;
    assert_eq!(mask.expect(413).code(), "storage_full");
    assert_eq!(pushes(&gateway.stand_ins()[0]), 0);
    assert_eq!(spooled(&gateway), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_stops_in_the_middle_leaves_nothing() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let body = form(&[], "a.png", &png(200, 200, RED));
    let head = format!(
        "POST /upload/image HTTP/1.1\r\nHost: {}\r\n{}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {}\r\n\r\n",
        acme.authority(),
        acme.credential_lines(),
        body.len()
    );
    let mut connection = acme.raw_connection().await;
    connection.write(&[head.as_bytes(), &body[..body.len() / 2]].concat()).await;
    eventually("the file is in the spool", || async { (spooled(&gateway) == 1).then_some(()) }).await;
    drop(connection);
    eventually("the spool is empty", || async { (spooled(&gateway) == 0).then_some(()) }).await;
    assert_eq!(acme.get("/internal/files/input").await.expect(200).json(), json!([]));
    assert_eq!(blobs(&gateway.state()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_beyond_its_deadline_is_ended() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nupload_deadline = \"1s\"").start().await;
    let acme = gateway.client("acme");
    let head = format!(
        "POST /upload/image HTTP/1.1\r\nHost: {}\r\n{}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 9999\r\n\r\n--{BOUNDARY}\r\n",
        acme.authority(),
        acme.credential_lines(),
    );
    let answer = acme.raw(head.as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
    assert_eq!(spooled(&gateway), 0);
}

/// Contents in the blobs.
fn blobs(state: &Path) -> usize {
    let shards = std::fs::read_dir(state.join("blobs")).unwrap().map(|entry| entry.unwrap());
    let shards = shards.filter(|shard| shard.file_name() != "tmp");
    shards.map(|shard| std::fs::read_dir(shard.path()).unwrap().count()).sum()
}

/// A form whose one part has this disposition and further headers.
fn odd_form(disposition: &str, further: &str) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n{further}\r\n");
    [head.as_bytes(), &png(4, 4, RED), format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_86_to_93_forms_and_files_that_could_be_read_differently_are_refused() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let red = png(4, 4, RED);
    let image = "name=\"image\"; filename=\"a.png\"";
    let part = |name: &str, value: &str| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes()
    };
    let refusals: Vec<(&str, Vec<u8>, u16)> = vec![
        ("86: a script", form(&[], "a.svg", b"<svg onload='alert(1)'/>"), 415),
        ("86: a page named as a picture", form(&[], "a.png", b"<html><script>1</script>"), 415),
        ("87: a compressed form beside it", form(&[], "a.png.gz", b"\x1f\x8b\x08\0"), 415),
        ("88: among the results", form(&[("type", "output")], "a.png", &red), 400),
        ("88: another folder", form(&[("subfolder", "../t/B")], "a.png", &red), 400),
        ("88: an absolute folder", form(&[("subfolder", "/etc")], "a.png", &red), 400),
        ("89: a path", form(&[], "../B/a.png", &red), 400),
        ("89: a folder in the name", form(&[], "B/a.png", &red), 400),
        ("89: two names", odd_form(&format!("{image}; filename*=utf-8''..%2FB%2Fa.png"), ""), 400),
        ("90: base64", odd_form(image, "Content-Transfer-Encoding: base64\r\n"), 400),
        ("90: another charset", odd_form(image, "Content-Type: image/png; charset=utf-16\r\n"), 400),
        ("90: a form in the form", odd_form(image, "Content-Type: multipart/mixed; boundary=x\r\n"), 400),
        ("91: two types", [part("type", "input"), part("type", "temp"), form(&[], "a.png", &red)].concat(), 400),
        ("91: two pictures", [&form(&[], "a.png", &red)[..], &form(&[], "a.png", &red)].concat(), 400),
        ("91: the name twice", odd_form(&format!("{image}; name=\"type\""), ""), 400),
        ("93: not what it says", form(&[], "a.png", b"\x89PNG\r\n\x1a\n<html>"), 415),
        ("no name", form(&[], "", &red), 400),
        ("no file", [part("type", "input"), format!("--{BOUNDARY}--\r\n").into_bytes()].concat(), 400),
        ("cut", form(&[], "a.png", &red)[..200].to_vec(), 400),
        ("a text before it", [b"preamble\r\n".to_vec(), form(&[], "a.png", &red)].concat(), 400),
        ("a text behind it", [form(&[], "a.png", &red), b"epilogue".to_vec()].concat(), 400),
        ("pickle", form(&[], "a.pkl", b"\x80\x04\x95"), 415),
    ];
    for path in ["/upload/image", "/upload/mask"] {
        for (what, body, status) in &refusals {
            let answer = acme.post_form(path, body.clone()).await;
            assert_eq!(answer.status, *status, "{path}, {what}: {}", answer.text());
            assert!(!answer.code().is_empty(), "{what}");
        }
        for kind in ["application/json", "multipart/form-data", "multipart/form-data; boundary=a; boundary=b"] {
            acme.post_bytes(path, kind, form(&[], "a.png", &red)).await.expect(415);
        }
    }
    let coded =
        [("content-type", format!("multipart/form-data; boundary={BOUNDARY}")), ("content-encoding", "gzip".into())];
    let coded: Vec<(&str, &str)> = coded.iter().map(|(name, value)| (*name, value.as_str())).collect();
    acme.call(http::Method::POST, "/upload/image", &coded, form(&[], "a.png", &red).into()).await.expect(415);
    assert_eq!(acme.get("/internal/files/input").await.expect(200).json(), json!([]));
    assert_eq!((blobs(&gateway.state()), spooled(&gateway)), (0, 0));
    assert_eq!(pushes(&gateway.stand_ins()[0]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_needs_a_credential_with_the_scope_files_and_http_2_carries_it_too() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let red = png(4, 4, RED);
    gateway.stranger().upload("/upload/image", &[], "a.png", &red).await.expect(401);
    let submit_only = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--scope", "submit"]));
    submit_only.upload("/upload/image", &[], "a.png", &red).await.expect(403);
    let acme = gateway.client("acme");
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let answer = acme
        .call_h2(http::Method::POST, "/upload/image", &[("content-type", &kind)], form(&[], "a.png", &red).into())
        .await
        .expect(200);
    let told: Value = answer.json();
    assert_eq!(told["name"], "a.png");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_file_is_on_its_way_to_a_backend_can_be_stopped() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, stand_in) = (gateway.client("acme"), &gateway.stand_ins()[0]);
    let name = uploaded(&acme, "a.png", &png(8, 8, RED)).await;
    stand_in.faults().hang_http(true);
    let prompt = acme.submit(workflows::inverted(&name, "never")).await;
    let entry = eventually("it is stopped", || async {
        acme.post("/interrupt", &json!({"prompt_id": prompt})).await.expect(200);
        let history = acme.get(&format!("/history/{prompt}")).await.json();
        history.get(&prompt).cloned()
    })
    .await;
    assert!(entry["status"].to_string().contains("execution_interrupted"), "{entry}");
    stand_in.faults().hang_http(false);
    let prompt = acme.submit(workflows::inverted(&name, "after")).await;
    picture_of(&acme, &prompt).await;
}

/// A WAV of noise that looks like nothing else: numbers of 16 bits, 8000 a second.
fn wav(channels: u16, seconds: u32) -> Vec<u8> {
    let mut state: u32 = 1;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let block = channels * 2;
    let data: Vec<u8> = (0..8000 * seconds * u32::from(block)).map(|_| noise()).collect();
    let length = u32::try_from(data.len()).unwrap();
    [
        b"RIFF",
        &(36 + length).to_le_bytes()[..],
        b"WAVEfmt ",
        &16_u32.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &channels.to_le_bytes(),
        &8000_u32.to_le_bytes(),
        &(8000 * u32::from(block)).to_le_bytes(),
        &block.to_le_bytes(),
        &16_u16.to_le_bytes(),
        b"data",
        &length.to_le_bytes(),
        &data,
    ]
    .concat()
}

/// The codes that `LoadAudio` of a file is refused with; none if it is accepted.
async fn loading(client: &Client, name: &str) -> Vec<String> {
    let workflow = json!({
        "1": {"class_type": "LoadAudio", "inputs": {"audio": name}},
        "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "voice"}},
    });
    let answer = client.post("/prompt", &json!({ "prompt": workflow })).await;
    if answer.status == 200 {
        return Vec::new();
    }
    let answer = answer.expect(403).json();
    let errors = answer["node_errors"]["1"]["errors"].as_array().unwrap_or_else(|| panic!("{answer}"));
    errors.iter().map(|error| error["extra_info"]["code"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_sound_is_loaded_where_its_length_is_known_and_within_the_cap() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    for (name, channels, seconds) in [("two.wav", 1, 2), ("longest.wav", 1, 300), ("wide.wav", 8, 75)] {
        uploaded(&acme, name, &wav(channels, seconds)).await;
        assert_eq!(loading(&acme, name).await, [""; 0], "{name}");
    }
    for (name, channels, seconds) in [("longer.wav", 1, 301), ("wider.wav", 8, 76)] {
        uploaded(&acme, name, &wav(channels, seconds)).await;
        assert_eq!(loading(&acme, name).await, ["size_exceeded"], "{name}");
    }
    let mut odd = wav(1, 2);
    odd[24..28].copy_from_slice(&8001_u32.to_le_bytes());
    for (name, content) in [("odd.wav", odd), ("voice.mp3", b"ID3\x04\0\0\0\0\0\0".to_vec())] {
        uploaded(&acme, name, &content).await;
        assert_eq!(loading(&acme, name).await, ["size_unbounded", "sound_unbounded"], "{name}");
    }
}
