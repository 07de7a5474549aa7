//! Entries 70 to 82: files and folders.

use serde_json::{Value, json};

use super::{allowed, node, prompt, refused, refused_always, refused_everywhere, upstream};

fn save(prefix: Value) -> Value {
    json!({"o": node("SaveImage", json!({"images": ["image", 0], "filename_prefix": prefix}))})
}

fn load(name: impl Into<Value>) -> Value {
    json!({"f": node("LoadImage", json!({"image": name.into()}))})
}

#[test]
fn bypass_070_prefixes_that_leave_the_output_folder() {
    for prefix in ["../../x", "..", "a/..", "a/../..", "..\\x", "a\u{0}b", "a\nb", "a\u{85}b", ".. /x", " ../x"] {
        refused_everywhere(save(json!(prefix)), "o", "save_prefix_refused");
    }
    allowed(save(json!("a..b/x")));
}

#[test]
fn bypass_071_prefixes_that_lead_into_another_s_folder() {
    for prefix in [
        "t/A/../B/x",
        "/out/t/B/x",
        "C:\\x",
        "a\\..\\b",
        "a/.. /b",
        "a/ ../b",
        "//host/x",
        "c:x",
        "\\\\host\\x",
        "a\\b",
    ] {
        refused_everywhere(save(json!(prefix)), "o", "save_prefix_refused");
    }
    // Another's folder as written is a folder within one's own.
    let body = upstream(&json!({"prompt": prompt(save(json!("t/B/x")))}));
    assert_eq!(body["prompt"]["o"]["inputs"]["filename_prefix"], "t/q/j-1/t/B/x");
    allowed(save(json!("a/b/x")));
    // Other spellings of a dot or a slash are letters of a name, and become plain ones.
    for (prefix, sent) in [
        ("．．/x", "t/q/j-1/__/x"),
        ("..%2fx", ""),
        ("a∕..∕b", "t/q/j-1/a_.._b"),
        ("...", "t/q/j-1/_._"),
        ("a/.../b", "t/q/j-1/a/_._/b"),
        ("a\u{202e}b", "t/q/j-1/a_b"),
        ("~/x", "t/q/j-1/_/x"),
        ("ab:c", "t/q/j-1/ab_c"),
        ("$HOME/x", "t/q/j-1/_HOME/x"),
    ] {
        if sent.is_empty() {
            refused_always(save(json!(prefix)), "o", "save_prefix_refused");
            continue;
        }
        let body = upstream(&json!({"prompt": prompt(save(json!(prefix)))}));
        assert_eq!(body["prompt"]["o"]["inputs"]["filename_prefix"], sent, "{prefix}");
    }
}

#[test]
fn bypass_072_prefixes_without_a_name() {
    for (prefix, sent) in [
        ("", "t/q/j-1/ComfyUI"),
        ("t/A/", "t/q/j-1/t/A/ComfyUI"),
        ("t/A/.", "t/q/j-1/t/A/ComfyUI"),
        (".", "t/q/j-1/ComfyUI"),
        (" ", "t/q/j-1/ComfyUI"),
        ("./././", "t/q/j-1/ComfyUI"),
        ("a//b", "t/q/j-1/a/b"),
    ] {
        let body = upstream(&json!({"prompt": prompt(save(json!(prefix)))}));
        assert_eq!(body["prompt"]["o"]["inputs"]["filename_prefix"], sent, "{prefix:?}");
    }
    // One that is absent would be the class's own, outside of the attempt's folder.
    super::left_out(json!({"o": node("SaveImage", json!({"images": ["image", 0]}))}), "o", "required_input_missing");
}

#[test]
fn bypass_073_a_linked_prefix() {
    let linked = |from: Value| {
        let mut nodes = save(json!(["p", 0]));
        nodes["p"] = from;
        nodes["q"] = node("PrimitiveString", json!({"value": "../x"}));
        nodes
    };
    for from in [
        node("PrimitiveString", json!({"value": "x"})),
        node("StringConcatenate", json!({"string_a": "..", "string_b": "/x", "delimiter": ""})),
        super::switch("q", "q", json!(true)),
    ] {
        refused_always(linked(from), "o", "linked_input_refused");
    }
    for prefix in [json!(5), json!(null), json!({"a": 1}), json!(true)] {
        refused_always(save(prefix), "o", "save_prefix_refused");
    }
}

#[test]
fn bypass_074_substitution_in_a_prefix() {
    for prefix in [
        "%SomeNode.text%",
        "%date:yyyy%",
        "100%",
        "%%width%",
        "%Width%",
        "%width %",
        "%width%%",
        "%hei%width%ght%",
        "%2e%2e/x",
        "%o.images%",
    ] {
        refused_everywhere(save(json!(prefix)), "o", "save_prefix_refused");
    }
    allowed(save(json!("%year%-%month%-%day%/%width%x%height%")));
}

#[test]
fn bypass_075_classes_that_write_models() {
    for class in [
        "SaveLoRA",
        "CheckpointSave",
        "ModelSave",
        "CLIPSave",
        "VAESave",
        "LoraSave",
        "ImageOnlyCheckpointSave",
        "TrainLoraNode",
    ] {
        for policy in ["default", "generous"] {
            let found = super::denials(&super::shipped(policy), json!({"x": node(class, json!({}))}));
            assert!(found.contains(&("x".to_owned(), "class_denied")), "{policy}: {class}: {found:?}");
        }
    }
    // Where a policy allows them, what they write still stays in the attempt's folder, whatever the prefix says: no models' folder is reached.
    for (class, inputs, prefix) in [
        ("ModelSave", json!({"model": ["model", 0]}), "checkpoints/evil"),
        ("CLIPSave", json!({"clip": ["model", 1]}), "clip/evil"),
        ("VAESave", json!({"vae": ["model", 2]}), "vae/evil"),
    ] {
        let policy = super::open_policy();
        let at =
            |prefix: &str| json!({"x": node(class, super::with(inputs.clone(), json!({"filename_prefix": prefix})))});
        let body = json!({"prompt": prompt(at(prefix))});
        let comfygate_policy::Verdict::Allow(approved) = super::verdict_under(&policy, &body) else {
            panic!("{class}")
        };
        assert_eq!(super::sent(&approved)["prompt"]["x"]["inputs"]["filename_prefix"], format!("t/q/j-1/{prefix}"));
        refused_everywhere(at("../checkpoints/evil"), "x", "save_prefix_refused");
    }
}

#[test]
fn bypass_076_data_sets_written_anywhere() {
    for class in ["SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder", "SaveTrainingDataset"] {
        for policy in ["default", "generous"] {
            let found = super::denials(&super::shipped(policy), json!({"x": node(class, json!({}))}));
            assert!(found.contains(&("x".to_owned(), "class_denied")), "{policy}: {class}: {found:?}");
        }
    }
    // An owner who may use them leaves no folder by them either.
    for folder in ["/etc/cron.d", "../..", "a/../../b", "C:\\x"] {
        let tensors =
            json!({"latents": ["empty", 0], "conditioning": ["text", 0], "folder_name": folder, "shard_size": 1});
        refused_everywhere(json!({"x": node("SaveTrainingDataset", tensors)}), "x", "path_refused");
        let images = json!({"images": ["image", 0], "folder_name": folder, "filename_prefix": "x"});
        refused_everywhere(json!({"x": node("SaveImageDataSetToFolder", images)}), "x", "path_refused");
    }
}

#[test]
fn bypass_077_pickles_that_run_as_code() {
    for class in ["LoadTrainingDataset", "LoadImageDataSetFromFolder", "LoadImageTextDataSetFromFolder"] {
        for policy in ["default", "generous"] {
            let found = super::denials(&super::shipped(policy), json!({"x": node(class, json!({}))}));
            assert!(found.contains(&("x".to_owned(), "class_denied")), "{policy}: {class}: {found:?}");
        }
    }
    for folder in ["/etc/cron.d", "../..", "a/../../b", "C:\\x"] {
        refused_everywhere(
            json!({"x": node("LoadTrainingDataset", json!({"folder_name": folder}))}),
            "x",
            "path_refused",
        );
    }
}

#[test]
fn bypass_078_paths_instead_of_files() {
    for name in [
        "../../../etc/x.png",
        "/etc/x.png",
        "/dev/zero",
        "a/../../x.png",
        "C:/x.png",
        "..\\x.png",
        "\\\\host\\x.png",
        "a/.. /x.png",
        "//etc/x.png",
        "c:x.png",
        "\\\\.\\pipe\\x",
        "a\u{0}.png",
        "../x.png [output]",
        "/proc/self/environ",
    ] {
        refused_everywhere(load(name), "f", "path_refused");
        refused_everywhere(
            json!({"f": node("LoadImageMask", json!({"image": name, "channel": "red"}))}),
            "f",
            "path_refused",
        );
    }
    for (class, input) in
        [("LoadAudio", "audio"), ("LoadVideo", "file"), ("LoadLatent", "latent"), ("LoadImageOutput", "image")]
    {
        refused_everywhere(json!({"f": node(class, json!({input: "../../etc/passwd"}))}), "f", "path_refused");
        refused_everywhere(json!({"f": node(class, json!({input: "/dev/zero"}))}), "f", "path_refused");
    }
    // Names that are devices on some systems: a stranger has no such file, and an owner's own names are not looked up.
    for name in ["CON", "nul.png", "a/COM1.png", "aux", "LPT9.txt", "CON:", "nul:x.png", "con .png", "prn.", "a\\nul"] {
        refused_always(load(name), "f", "file_not_found");
        let found = super::denials(&super::shipped("owner"), load(name));
        assert_eq!(found, [("f".to_owned(), "path_refused")], "{name}");
    }
    for name in ["console.png", "a..b.png", "nullable.png", "com10.png", "a/b c.png", "shot 12:30.png"] {
        refused_always(load(name), "f", "file_not_found");
        assert_eq!(super::denials(&super::shipped("owner"), load(name)), [], "{name}");
    }
}

#[test]
fn bypass_079_foreign_files_and_false_suffixes() {
    for name in [
        "t/B/x.png",
        "x.png [output]",
        "me.png [output]",
        "mine.png",
        "ME.PNG",
        "me.png ",
        "./me.png",
        "me.png/",
        "m\u{435}.png",
        "t//B/x.png",
        "t/a/1.png",
    ] {
        refused_always(load(name), "f", "file_not_found");
    }
    for name in [
        "x.png[temp]",
        "x.pngZ[input]",
        "me.png[input]",
        "me.png [output] [input]",
        "me.png [temp] ",
        "me.png\u{a0}[input]",
    ] {
        refused_everywhere(load(name), "f", "file_suffix_refused");
    }
    for (name, sent) in
        [("me.png [input]", "t/a/1.png"), ("mine.png [output]", "t/a/2.png [output]"), ("me.png", "t/a/1.png")]
    {
        let body = upstream(&json!({"prompt": prompt(load(name))}));
        assert_eq!(body["prompt"]["f"]["inputs"]["image"], sent);
    }
    // Our own folders stay each user's, in the owner posture too.
    for name in [
        "t/B/x.png",
        "t/B/x.png [output]",
        "T/B/x.png",
        "./t/B/x.png",
        "a/./../t/x.png",
        "t\\B\\x.png",
        "t./q7/a.png",
        "T. ./q7/a.png",
        "./t ../q7/a.png",
        "t::$INDEX_ALLOCATION/q7/a.png",
    ] {
        let found = super::denials(&super::shipped("owner"), load(name));
        assert!(found.iter().any(|(_, code)| ["file_not_found", "path_refused"].contains(code)), "{name}: {found:?}");
    }
    for name in ["t.d/q7/a.png", "tt/q7/a.png", "a./t/a.png", ".t/q7/a.png"] {
        assert_eq!(super::denials(&super::shipped("owner"), load(name)), [], "{name}");
    }
}

#[test]
fn bypass_079b_a_file_s_name_by_a_link() {
    for from in [
        node("PrimitiveString", json!({"value": "me.png"})),
        node("StringConcatenate", json!({"string_a": "..", "string_b": "/x", "delimiter": ""})),
        node("CustomCombo", json!({"choice": "me.png"})),
    ] {
        let mut nodes = load(json!(["p", 0]));
        nodes["p"] = from;
        refused_always(nodes, "f", "linked_input_refused");
    }
    for name in [json!(5), json!(null), json!({"filename": "me.png"}), json!(true)] {
        refused_always(load(name), "f", "file_name_refused");
    }
}

#[test]
fn bypass_080_an_unreachable_file_is_looked_at_as_well() {
    refused_always(load("nobody.png"), "f", "file_not_found");
    for (class, input, name) in
        [("LoadAudio", "audio", "x.flac"), ("LoadVideo", "file", "x.mp4"), ("LoadImageMask", "image", "x.png")]
    {
        refused_always(json!({"f": node(class, json!({input: name}))}), "f", "file_not_found");
    }
    // Nor do targets, or an invalid input beside it, hide it.
    let mut beside = load("nobody.png");
    beside["f"]["inputs"]["zzz"] = json!(1);
    refused_always(beside, "f", "file_not_found");
    let fed = json!({"m": node("LoadImageMask", json!({"image": "nobody.png", "channel": 5}))});
    refused_always(fed, "m", "file_not_found");
}

#[test]
fn bypass_081_classes_that_read_unchecked_paths() {
    for class in ["Load3D", "RecordAudio", "WebcamCapture"] {
        refused(json!({"x": node(class, json!({"image": {"image": "/etc/passwd"}}))}), "x", "class_denied");
    }
    for (class, input) in [("Load3D", "image"), ("RecordAudio", "audio"), ("WebcamCapture", "image")] {
        for value in
            [json!({"image": "/etc/passwd"}), json!("/etc/passwd"), json!("../x"), json!({"recording": "../x"})]
        {
            let nodes = json!({"x": node(class, json!({ input: value, "width": 64, "height": 64 }))});
            for policy in super::all_policies() {
                let found = super::denials_or_left_out(&policy, nodes.clone());
                let codes = [
                    "class_denied",
                    "class_not_allowed",
                    "path_refused",
                    "file_name_refused",
                    "invalid_input_type",
                    "file_not_found",
                ];
                assert!(
                    found.iter().any(|(node, code)| node == "x" && codes.contains(code)),
                    "{} {class} {value}: {found:?}",
                    policy.name()
                );
            }
        }
    }
}

#[test]
fn bypass_082_embeddings_are_contained_by_comfyui() {
    for text in ["embedding:../../x", "embedding:/etc/passwd", "a (embedding:..\\x:1.2) b"] {
        allowed(json!({"e": node("CLIPTextEncode", json!({"text": text, "clip": ["model", 1]}))}));
    }
}

#[test]
fn bypass_082b_a_model_s_name_is_no_path() {
    let model = |name: &str| json!({"m": node("UNETLoader", json!({"unet_name": name, "weight_dtype": "default"}))});
    for name in
        ["../x.safetensors", "/etc/x.safetensors", "a/../../x", "C:\\x", "a\u{0}", "\\\\host\\x", &"x".repeat(1025)]
    {
        refused_always(model(name), "m", "path_refused");
    }
    allowed(model("SDXL\\base.safetensors"));
    allowed(model("flux/dev.safetensors"));
}
