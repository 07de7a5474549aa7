//! A saved picture opens again, in front of stand-ins and of real ComfyUIs: what ComfyUI wrote into it is submitted as it is, by its owner and by another.

use crate::client::{Client, files_of};
use crate::{pictures, workflows};
use serde_json::{Value, json};

/// A picture that a run has saved, with what its history says of it.
struct Saved {
    name: (String, String),
    pixels: Vec<u8>,
    prompt: Value,
    workflow: Value,
}

/// Runs a graph and reads its one picture.
async fn run(client: &Client, prompt: &Value, workflow: &Value) -> Saved {
    let envelope = json!({"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}});
    let entry = client.finished(&client.submit_with(envelope).await).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let file = files_of(&entry).remove(0);
    let picture = client.get(&client.path_of(file["url"].as_str().unwrap())).await.expect(200).body;
    let texts = pictures::texts(&picture);
    let read = |name: &str| serde_json::from_str(&texts[name]).unwrap();
    let part = |name: &str| file[name].as_str().unwrap().to_owned();
    let (prompt, workflow) = (read("prompt"), read("workflow"));
    Saved { name: (part("subfolder"), part("filename")), pixels: pictures::pixels(&picture), prompt, workflow }
}

/// Three runs, each of the graph that the picture of the run before carries; then another's try to use it.
pub async fn a_saved_picture_opens_again(acme: &Client, bravo: &Client) {
    let upload = [("overwrite", "true")];
    acme.upload("/upload/image", &upload, "again.png", &pictures::png(40, 24, [200, 10, 10])).await.expect(200);
    let page = json!({"id": "a-page's-own", "nodes": [{"id": 1, "type": "LoadImage", "widgets_values": ["again.png"]}], "links": []});
    let first = run(acme, &workflows::inverted("again.png", "pets/again"), &page).await;
    assert_eq!(first.name, ("pets".to_owned(), "again_00001_.png".to_owned()));
    assert_eq!(first.workflow, page, "the page's own form is as it was sent");
    let second = run(acme, &first.prompt, &first.workflow).await;
    let third = run(acme, &second.prompt, &second.workflow).await;
    for (later, number) in [(&second, 2), (&third, 3)] {
        assert_eq!(later.name, ("pets".to_owned(), format!("again_{number:05}_.png")), "no folder within a folder");
        assert_eq!((&later.pixels, &later.workflow), (&first.pixels, &page));
        // The same file under the same name at the backend, and the same cache; only the attempt's folder is another.
        for path in ["/1/inputs/image", "/2", "/9/class_type", "/9/inputs/images"] {
            assert_eq!(later.prompt.pointer(path), first.prompt.pointer(path), "{path}");
        }
        let prefix = later.prompt["9"]["inputs"]["filename_prefix"].as_str().unwrap();
        assert_eq!(prefix.split('/').count(), 5, "t, owner, attempt, folder, name: {prefix}");
        assert_ne!(later.prompt["9"]["inputs"]["filename_prefix"], first.prompt["9"]["inputs"]["filename_prefix"]);
    }
    // The file is nobody else's, however it is called.
    let answer = bravo.post("/prompt", &json!({"prompt": third.prompt})).await.expect(403).json();
    assert_eq!(answer["node_errors"]["1"]["errors"][0]["extra_info"]["code"], "file_not_found", "{answer}");
    // Without the file the rest of it runs for another, in a folder of its own.
    let mut rest = third.prompt;
    let picture = json!({"width": 40, "height": 24, "batch_size": 1, "color": 0, "comfygate_salt": rest["9"]["inputs"]["comfygate_salt"]});
    rest["1"] = json!({"class_type": "EmptyImage", "inputs": picture});
    let theirs = run(bravo, &rest, &page).await;
    assert_eq!(theirs.name, ("pets".to_owned(), "again_00001_.png".to_owned()));
    let (own, foreign) = (&theirs.prompt["9"]["inputs"], &rest["9"]["inputs"]);
    assert!(own["comfygate_salt"].is_string() && own["comfygate_salt"] != foreign["comfygate_salt"]);
    let owner = |inputs: &Value| inputs["filename_prefix"].as_str().unwrap().split('/').nth(1).unwrap().to_owned();
    assert_ne!(owner(own), owner(foreign));
}
