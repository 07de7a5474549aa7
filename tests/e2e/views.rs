//! Other forms of a picture: previews and channels, computed by a backend and relayed.

use comfygate_tests::client::files_of;
use comfygate_tests::pictures::{pixels, png, png_with_alpha, size};
use comfygate_tests::{Client, Gateway, eventually, workflows};
use http::Method;
use serde_json::json;

/// The path below which a stand-in was asked for other forms.
fn asked(gateway: &Gateway) -> Vec<String> {
    let requests = gateway.stand_ins().iter().flat_map(|stand_in| stand_in.requests());
    requests.map(|(_, path, _)| path).filter(|path| path.contains("&preview=") || path.contains("&channel=")).collect()
}

async fn uploaded(client: &Client, name: &str, content: &[u8]) {
    client.upload("/upload/image", &[], name, content).await.expect(200);
}

/// A picture of one colour as the backend writes it: with the same compression as its channels.
async fn plain(client: &Client, width: u64, height: u64, colour: u64) -> Vec<u8> {
    let mut workflow = workflows::picture("plain", width, height);
    workflow["1"]["inputs"]["color"] = json!(colour);
    let prompt = client.submit(workflow).await;
    let file = files_of(&client.finished(&prompt).await).remove(0);
    client.get(&client.path_of(file["url"].as_str().unwrap())).await.expect(200).body.to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn previews_and_channels_of_own_pictures_are_made_by_a_backend_and_are_nothing_of_anybody_elses() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    uploaded(&acme, "half.png", &png_with_alpha(30, 20, [200, 100, 50], 128)).await;
    let webp = acme.get("/view?filename=half.png&type=input&preview=webp;75").await.expect(200);
    assert_eq!(
        (webp.header("content-type"), &webp.body[..4], &webp.body[8..12]),
        (Some("image/webp"), &b"RIFF"[..], &b"WEBP"[..])
    );
    let jpeg = acme.get("/api/view?filename=half.png&type=input&preview=jpeg;50").await.expect(200);
    assert_eq!((jpeg.header("content-type"), &jpeg.body[..2]), (Some("image/jpeg"), &b"\xff\xd8"[..]));
    let colours = acme.get("/view?filename=half.png&type=input&channel=rgb").await.expect(200);
    assert_eq!((colours.header("content-type"), size(&colours.body)), (Some("image/png"), (30, 20)));
    assert_eq!(pixels(&colours.body), pixels(&plain(&acme, 30, 20, 0xc8_6432).await));
    let alpha = acme.get("/view?filename=half.png&type=input&channel=a").await.expect(200);
    // Of the colours nothing is in it.
    for (name, colour, other_alpha) in [("black.png", [0, 0, 0], 128), ("clear.png", [200, 100, 50], 7)] {
        uploaded(&acme, name, &png_with_alpha(30, 20, colour, other_alpha)).await;
        let other = acme.get(&format!("/view?filename={name}&type=input&channel=a")).await.expect(200);
        assert_eq!((size(&other.body), pixels(&other.body) == pixels(&alpha.body)), ((30, 20), other_alpha == 128));
    }
    for answer in [&webp, &jpeg, &colours, &alpha] {
        assert_eq!(answer.header("content-security-policy"), Some("sandbox; default-src 'none'"));
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
        assert!(answer.header("content-disposition").unwrap().contains("half.png"));
    }
    // A channel that ComfyUI does not know means the file itself.
    let whole = acme.get("/view?filename=half.png&type=input&channel=rgba").await.expect(200);
    assert_eq!(whole.body, png_with_alpha(30, 20, [200, 100, 50], 128));
    for query in ["preview=webp;75", "preview=jpeg", "channel=rgb", "channel=a"] {
        let path = format!("/view?filename=half.png&type=input&{query}");
        let (theirs, nothing) = (bravo.get(&path).await, bravo.get(&path.replace("half", "none")).await);
        assert_eq!(
            (theirs.status, theirs.without_request_id()),
            (nothing.expect(404).status, bravo.get(&path.replace("half", "void")).await.without_request_id())
        );
        gateway.stranger().get(&path).await.expect(401);
    }
    // The backend was asked in the gateway's words, under its names, and given the picture once.
    let asked = asked(&gateway);
    assert_eq!(asked.len(), 6, "{asked:?}");
    assert!(asked[0].ends_with("&type=input&preview=webp;75") && asked[1].ends_with("&preview=jpeg;50"), "{asked:?}");
    assert!(asked.iter().all(|path| !path.contains("half.png")), "{asked:?}");
    let pushes = gateway.stand_ins()[0]
        .requests()
        .iter()
        .filter(|(method, _, _)| method == Method::POST)
        .filter(|(_, path, _)| path == "/upload/image")
        .count();
    assert_eq!(pushes, 3, "each picture once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_that_the_caller_has_is_not_made_again_and_one_of_a_result_lies_nowhere_afterwards() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("seen")).await;
    let file = files_of(&acme.finished(&prompt).await).remove(0);
    let path = format!("/view?filename={}&preview=webp;90", file["filename"].as_str().unwrap());
    let made = acme.get(&path).await.expect(200);
    let etag = made.header("etag").unwrap().to_owned();
    let again = acme.call(Method::GET, &path, &[("if-none-match", &etag)], Vec::new().into()).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_eq!(asked(&gateway).len(), 1);
    let other = acme.call(Method::GET, &path.replace("90", "10"), &[("if-none-match", &etag)], Vec::new().into()).await;
    assert_eq!(other.status.as_u16(), 200, "another form has another tag");
    let head = acme.call(Method::HEAD, &path, &[], Vec::new().into()).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), made.header("content-length"));
    // It is dropped after its last byte was sent.
    let spool = gateway.state().join("blobs/tmp");
    eventually("the spool is empty", || async { (std::fs::read_dir(&spool).unwrap().count() == 0).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_lost_the_picture_is_given_it_again_and_another_one_takes_over() {
    let gateway = Gateway::builder().stand_ins(2).start().await;
    let acme = gateway.client("acme");
    uploaded(&acme, "a.png", &png(8, 8, [1, 2, 3])).await;
    let path = "/view?filename=a.png&type=input&channel=rgb";
    acme.get(path).await.expect(200);
    for stand_in in gateway.stand_ins() {
        let _ = std::fs::remove_dir_all(stand_in.directory().join("input/t"));
    }
    let again = acme.get(path).await.expect(200);
    assert_eq!(pixels(&again.body), pixels(&plain(&acme, 8, 8, 0x01_0203).await));
    gateway.stand_ins()[0].kill();
    acme.get(path).await.expect(200);
    gateway.stand_ins()[1].kill();
    acme.get(path).await.expect(503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_other_form_is_refused_with_the_reason() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let mut wav = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data".to_vec();
    wav.extend([0; 4]);
    uploaded(&acme, "a.wav", &wav).await;
    let sound = acme.get("/view?filename=a.wav&type=input&preview=webp").await.expect(400);
    assert_eq!(sound.code(), "no_picture");
    acme.get("/view?filename=nosuch.png&type=input&preview=webp").await.expect(404);
    acme.get("/view?filename=a.wav&type=input&preview=webp&preview=jpeg").await.expect(400);
    assert_eq!(asked(&gateway), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_a_model_tells_what_it_is_to_who_may_use_it() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let told = acme.get("/view_metadata/loras?filename=example_lora.safetensors").await.expect(200).json();
    assert_eq!(told, json!({"modelspec.title": "example_lora.safetensors", "ss_base_model_version": "sd_v1"}));
    for none in [
        "/view_metadata/loras?filename=nosuch.safetensors",
        "/view_metadata/loras?filename=..%2Fexample_lora.safetensors",
        "/view_metadata/loras",
        "/view_metadata/configs?filename=example_lora.safetensors",
        "/view_metadata/nosuch?filename=example_lora.safetensors",
        "/view_metadata/upscale_models?filename=RealESRGAN_x4plus.pth",
    ] {
        assert_eq!(acme.get(none).await.expect(404).text(), "", "{none}");
    }
    gateway.stranger().get("/view_metadata/loras?filename=example_lora.safetensors").await.expect(401);
}
