//! Caps on sizes, counts, sound and steps: for each rule a workflow just inside and one just outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]

use comfygate_policy::{Catalogue, Directory, FileFact, FileFacts, Policy, Verdict, decide, parse};
use serde_json::{Value, json};

fn policy(caps: &str) -> Policy {
    let scale = if caps.contains("vae_scale") { "" } else { "vae_scale = 8\n" };
    let tempo = if caps.contains("vae_frames") { "" } else { "vae_frames = 4\n" };
    let head = "name = \"x\"\n[classes]\nallow = [\"*\"]\n[caps]\nupscale_model_factor = 4\n";
    Policy::from_toml(&format!("{head}{scale}{tempo}{caps}")).unwrap()
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

/// What is refused, as node and code. Models and prompts come along.
fn refusals(caps: &str, nodes: Value) -> Vec<(String, String)> {
    let mut prompt = json!({
        "model": node("CheckpointLoaderSimple", json!({"ckpt_name": "m.safetensors"})),
        "text": node("CLIPTextEncode", json!({"clip": ["model", 1], "text": ""})),
        "picture": node("EmptyImage", json!({"width": 64, "height": 32, "batch_size": 1, "color": 0})),
        "latent": node("EmptyLatentImage", json!({"width": 64, "height": 32, "batch_size": 1})),
    });
    for (id, node) in nodes.as_object().unwrap() {
        prompt[id] = node.clone();
    }
    let mut files = FileFacts::none();
    let fact =
        FileFact { canonical_name: "t/film.mp4".to_owned(), width: 64, height: 32, frames: 10, seconds: Some(10) };
    files.insert("film.mp4", Directory::Input, fact);
    let body = json!({ "prompt": prompt }).to_string();
    let parsed = parse(body.as_bytes()).expect("parses");
    match decide(&parsed, &policy(caps), Catalogue::builtin(), &files) {
        Verdict::Allow(_) => Vec::new(),
        Verdict::Deny(violations) => {
            let list: Value = serde_json::to_value(violations.to_json()).unwrap();
            let list: Value = match list {
                Value::String(text) => serde_json::from_str(&text).unwrap(),
                other => other,
            };
            let of = |violation: &Value, key: &str| violation[key].as_str().unwrap_or_default().to_owned();
            // No output node runs in these: that is not what they are about.
            let all = list.as_array().unwrap().iter().map(|violation| (of(violation, "node"), of(violation, "code")));
            all.filter(|(_, code)| code != "prompt_no_outputs").collect()
        }
    }
}

fn fits(caps: &str, nodes: Value) {
    assert_eq!(refusals(caps, nodes), []);
}

fn is_refused(caps: &str, nodes: Value, at: &str, code: &str) {
    let found = refusals(caps, nodes);
    assert!(found.iter().any(|(node, known)| node == at && known == code), "wanted {code} at {at:?}, found {found:?}");
}

/// One class whose picture or latent is as large as said, and not larger: fits its own size, and one pixel or image less is refused.
fn exactly(class: &str, inputs: Value, width: u32, height: u32, count: u32) {
    let nodes = json!({"x": node(class, inputs)});
    let batch = if count > 1 { format!("frames = {count}\nbatch = {count}\n") } else { String::new() };
    fits(&format!("width = {width}\nheight = {height}\n{batch}"), nodes.clone());
    // Where a side stays as it was, what comes before is too large already.
    let mut less: Vec<String> = [("width", width, 64), ("height", height, 32)]
        .into_iter()
        .filter(|(_, side, source)| side != source)
        .map(|(name, side, _)| format!("{name} = {}\n", side - 1))
        .collect();
    if count > 1 {
        less.push(format!("batch = {}\nframes = {}\n", count - 1, count - 1));
    }
    for caps in less {
        let found = refusals(&caps, nodes.clone());
        let told = |(node, code): &(String, String)| node == "x" && (code == "size_exceeded" || code == "cap_exceeded");
        assert!(found.iter().any(told), "{class} under {caps}: {found:?}");
    }
}

#[test]
fn classes_that_scale_crop_and_join_are_followed_exactly() {
    let picture = json!(["picture", 0]);
    exactly("ResizeImagesByShorterEdge", json!({"images": picture, "shorter_edge": 64}), 128, 64, 1);
    exactly("ImageScaleBy", json!({"image": picture, "upscale_method": "area", "scale_by": 2.0}), 128, 64, 1);
    let both = json!({"samples1": ["latent", 0], "samples2": ["latent", 0], "dim": "x"});
    exactly("LatentConcat", both, 128, 32, 1);
    let both = json!({"samples1": ["latent", 0], "samples2": ["latent", 0], "dim": "-y"});
    exactly("LatentConcat", both, 64, 64, 1);
    let both = json!({"samples1": ["latent", 0], "samples2": ["latent", 0], "dim": "t"});
    exactly("LatentConcat", both, 64, 32, 9);
    let upscaled = json!({"images": picture, "positive": ["text", 0], "negative": ["text", 0], "scale_ratio": 4.0, "noise_augmentation": 0.0});
    exactly("SD_4XUpscale_Conditioning", upscaled, 256, 128, 1);
    let grid = json!({"images": picture, "columns": 3, "cell_width": 40, "cell_height": 50, "padding": 10});
    exactly("ImageGrid", grid, 140, 50, 1);
}

#[test]
fn a_doubling_chain_of_latents_along_time_is_refused_where_it_is_too_long() {
    let mut nodes = json!({});
    // Each time seven more: the first cell of the second film is no longer a single frame.
    for n in 0..5 {
        let from = if n == 0 { "latent".to_owned() } else { format!("c{}", n - 1) };
        nodes[format!("c{n}")] =
            node("LatentConcat", json!({"samples1": [from.clone(), 0], "samples2": [from, 0], "dim": "t"}));
    }
    fits("frames = 249\n", nodes.clone());
    is_refused("frames = 248\n", nodes, "c4", "size_exceeded");
}

#[test]
fn slices_of_a_latent_become_a_batch() {
    let nodes = |layers: u32| {
        json!({
            "l": node("EmptyQwenImageLayeredLatentImage", json!({"width": 64, "height": 32, "layers": layers, "batch_size": 1})),
            "c": node("LatentCutToBatch", json!({"samples": ["l", 0], "dim": "t", "slice_size": 1})),
        })
    };
    fits("batch = 4\nframes = 13\n", nodes(3));
    is_refused("batch = 4\nframes = 17\n", nodes(4), "c", "size_exceeded");
}

#[test]
fn wan_vace_is_one_cell_longer_with_a_reference() {
    let inputs = json!({"positive": ["text", 0], "negative": ["text", 0], "vae": ["model", 2], "width": 64, "height": 32, "length": 81, "batch_size": 1, "strength": 1.0});
    let mut referred = inputs.clone();
    referred["reference_image"] = json!(["picture", 0]);
    fits("frames = 81\n", json!({"x": node("WanVaceToVideo", inputs)}));
    fits("frames = 85\n", json!({"x": node("WanVaceToVideo", referred.clone())}));
    is_refused("frames = 84\n", json!({"x": node("WanVaceToVideo", referred)}), "x", "size_exceeded");
}

#[test]
fn a_part_of_a_batch_is_no_longer_than_asked_for() {
    let nodes = json!({
        "v": node("RepeatImageBatch", json!({"image": ["picture", 0], "amount": 16})),
        "f": node("ImageFromBatch", json!({"image": ["v", 0], "batch_index": 15, "length": 1})),
        "r": node("RepeatImageBatch", json!({"image": ["f", 0], "amount": 16})),
    });
    fits("batch = 16\n", nodes.clone());
    is_refused("batch = 15\n", nodes, "v", "cap_exceeded");
}

#[test]
fn classes_whose_size_a_file_or_a_page_decides_are_refused_under_caps_only() {
    let inputs = json!({"image": "a.png", "width": 8, "height": 8, "capture_on_queue": true});
    is_refused("width = 4096\n", json!({"x": node("WebcamCapture", inputs.clone())}), "x", "size_unbounded");
    let found = refusals("", json!({"x": node("WebcamCapture", inputs)}));
    assert!(found.iter().all(|(_, code)| code != "size_unbounded"), "{found:?}");
}

#[test]
fn sound_is_as_long_as_its_seconds_and_no_picture() {
    let empty = |seconds: f64| json!({"x": node("EmptyLatentAudio", json!({"seconds": seconds, "batch_size": 1}))});
    fits("seconds = 60\nwidth = 64\n", empty(60.0));
    is_refused("seconds = 59.5\n", empty(60.0), "x", "cap_exceeded");
    let joined = |caps: &str| {
        let nodes = json!({
            "a": node("EmptyAudio", json!({"duration": 20.0, "sample_rate": 44100, "channels": 2})),
            "b": node("AudioConcat", json!({"audio1": ["a", 0], "audio2": ["a", 0], "direction": "after"})),
            "t": node("TrimAudioDuration", json!({"audio": ["b", 0], "start_index": 0.0, "duration": 10.0})),
            "c": node("AudioConcat", json!({"audio1": ["t", 0], "audio2": ["t", 0], "direction": "after"})),
        });
        refusals(caps, nodes)
    };
    assert_eq!(joined("seconds = 41\n"), []);
    assert_eq!(joined("seconds = 39\n"), [("b".to_owned(), "size_exceeded".to_owned())]);
    // A latent of sound in a decoder of pictures.
    let nodes = json!({
        "x": node("EmptyLatentAudio", json!({"seconds": 1.0, "batch_size": 1})),
        "d": node("VAEDecode", json!({"samples": ["x", 0], "vae": ["model", 2]})),
    });
    is_refused("width = 4096\n", nodes, "d", "size_unbounded");
}

#[test]
fn sound_of_frames_is_as_long_as_the_slowest_rate_that_may_come() {
    // Later releases take a number of either kind there, whose range nobody checks.
    let nodes = |class: &str, rate: Value| {
        json!({
            "x": node("LTXVEmptyLatentAudio", json!({"frames_number": 100, "frame_rate": ["n", 0], "batch_size": 1, "audio_vae": ["model", 2]})),
            "n": node(class, json!({"value": rate})),
        })
    };
    fits("seconds = 5\n", nodes("PrimitiveFloat", json!(25.0)));
    fits("seconds = 5\n", nodes("PrimitiveInt", json!(25)));
    is_refused("seconds = 5\n", nodes("PrimitiveFloat", json!(19.0)), "x", "size_exceeded");
    is_refused("seconds = 100\n", nodes("PrimitiveFloat", json!(0.5)), "x", "size_exceeded");
    is_refused("seconds = 100\n", nodes("PrimitiveFloat", json!(0.0)), "x", "size_unbounded");
    is_refused("seconds = 100\n", nodes("PrimitiveFloat", json!(-1.0)), "x", "size_unbounded");
}

#[test]
fn odd_sample_rates_are_refused() {
    let nodes =
        |rate: u32| json!({"a": node("EmptyAudio", json!({"duration": 1.0, "sample_rate": rate, "channels": 2}))});
    fits("seconds = 10\n", nodes(48_000));
    is_refused("seconds = 10\n", nodes(191_999), "a", "sample_rate_refused");
    // What ends a ComfyUI does so without caps too.
    fits("", nodes(192_000));
    is_refused("", nodes(191_999), "a", "sample_rate_refused");
}

#[test]
fn a_list_runs_what_follows_once_for_each_item() {
    let nodes = |size: u32| {
        json!({
            "b": node("RepeatLatentBatch", json!({"samples": ["latent", 0], "amount": 8})),
            "l": node("RebatchLatents", json!({"latents": ["b", 0], "batch_size": size})),
            "s": node("KSampler", json!({"model": ["model", 0], "seed": 1, "steps": 10, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras",
                "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["l", 0], "denoise": 1.0})),
        })
    };
    fits("steps_total = 80\n", nodes(1));
    is_refused("steps_total = 79\n", nodes(1), "", "steps_total_exceeded");
    // Two batches of four, and perhaps one more of another size.
    fits("steps_total = 30\n", nodes(4));
}

#[test]
fn lists_of_batches_count_as_one_batch_of_all() {
    let nodes = |amount: u32| {
        json!({
            "b": node("RepeatImageBatch", json!({"image": ["picture", 0], "amount": 8})),
            "l": node("RebatchImages", json!({"images": ["b", 0], "batch_size": 1})),
            "r": node("RepeatImageBatch", json!({"image": ["l", 0], "amount": amount})),
        })
    };
    fits("batch = 8\nframes = 8\n", nodes(8));
    is_refused("batch = 9\nframes = 7\n", nodes(8), "r", "size_exceeded");
}

fn custom(sampler: Value, sigmas: Value) -> Value {
    json!({
        "k": sampler, "g": sigmas,
        "s": node("SamplerCustom", json!({"model": ["model", 0], "add_noise": true, "noise_seed": 1, "cfg": 1.0, "positive": ["text", 0], "negative": ["text", 0],
            "sampler": ["k", 0], "sigmas": ["g", 0], "latent_image": ["latent", 0]})),
    })
}

fn karras(steps: u32) -> Value {
    node("KarrasScheduler", json!({"steps": steps, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 7.0}))
}

#[test]
fn steps_are_counted_in_model_calls() {
    let select = |name: &str| node("KSamplerSelect", json!({ "sampler_name": name }));
    for (name, calls) in [("euler", 1), ("heun", 2), ("heunpp2", 3), ("seeds_3", 3), ("dpmpp_2m_sde_heun", 1)] {
        fits(&format!("steps = {}\n", 10 * calls), custom(select(name), karras(10)));
        is_refused(&format!("steps = {}\n", 10 * calls - 1), custom(select(name), karras(10)), "s", "cap_exceeded");
    }
    let sde = node("SamplerDPMPP_SDE", json!({"eta": 1.0, "s_noise": 1.0, "r": 0.5, "noise_device": "cpu"}));
    fits("steps = 20\n", custom(sde.clone(), karras(10)));
    is_refused("steps = 19\n", custom(sde, karras(10)), "s", "cap_exceeded");
}

#[test]
fn parts_of_a_schedule_are_as_long_as_they_are() {
    let split = |part: u32| {
        let select = node("KSamplerSelect", json!({"sampler_name": "euler"}));
        let mut nodes = custom(select, node("SplitSigmas", json!({"sigmas": ["h", 0], "step": 4})));
        nodes["h"] = karras(10);
        nodes["s"]["inputs"]["sigmas"] = json!(["g", part]);
        nodes
    };
    // The scheduler's own number is bounded by both caps.
    fits("steps = 10\n", split(0));
    fits("steps_total = 10\n", split(1));
    let mut both = split(0);
    both["t"] = split(1)["s"].clone();
    fits("steps_total = 10\n", both.clone());
    let mut twice = both;
    twice["t"]["inputs"]["sigmas"] = json!(["g", 0]);
    twice["u"] = split(1)["s"].clone();
    is_refused("steps_total = 13\n", twice, "", "steps_total_exceeded");
}

#[test]
fn a_sampler_that_enlarges_makes_larger_latents() {
    let lcm = |ratio: f64| {
        let sampler =
            node("SamplerLCMUpscale", json!({"scale_ratio": ratio, "scale_steps": -1, "upscale_method": "area"}));
        custom(sampler, karras(4))
    };
    fits("width = 128\n", lcm(2.0));
    is_refused("width = 127\n", lcm(2.0), "s", "size_exceeded");
    fits("width = 64\n", lcm(1.0));
}

#[test]
fn steps_of_an_advanced_sampler_are_those_between_its_ends() {
    let nodes = |start: u32, end: u32| {
        json!({"s": node("KSamplerAdvanced", json!({"model": ["model", 0], "add_noise": "enable", "noise_seed": 1, "steps": 20, "cfg": 1.0, "sampler_name": "euler",
            "scheduler": "karras", "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0], "start_at_step": start, "end_at_step": end,
            "return_with_leftover_noise": "disable"}))})
    };
    let mut pair = nodes(0, 12);
    pair["t"] = nodes(12, 10_000)["s"].clone();
    fits("steps_total = 20\n", pair.clone());
    pair["u"] = nodes(19, 20)["s"].clone();
    is_refused("steps_total = 20\n", pair, "", "steps_total_exceeded");
}

#[test]
fn small_pieces_and_wide_overlaps_are_refused() {
    let tiled = |tile: u32, overlap: u32| {
        json!({"x": node("VAEEncodeTiled", json!({"pixels": ["picture", 0], "vae": ["model", 2], "tile_size": tile, "overlap": overlap,
            "temporal_size": 64, "temporal_overlap": 8}))})
    };
    fits("width = 64\n", tiled(512, 256));
    is_refused("width = 64\n", tiled(512, 320), "x", "overlap_too_large");
    let linked = |value: i64| {
        let mut nodes = tiled(512, 0);
        nodes["p"] = node("PrimitiveInt", json!({ "value": value }));
        nodes["x"]["inputs"]["tile_size"] = json!(["p", 0]);
        nodes
    };
    fits("width = 64\n", linked(64));
    is_refused("width = 64\n", linked(63), "x", "value_smaller_than_min");
}

#[test]
fn loops_over_whole_pictures_are_bounded() {
    let grown = |by: i64| {
        json!({
            "m": node("SolidMask", json!({"value": 1.0, "width": 64, "height": 32})),
            "x": node("GrowMask", json!({"mask": ["m", 0], "expand": by, "tapered_corners": true})),
        })
    };
    for by in [1024, -1024] {
        fits("width = 64\n", grown(by));
        is_refused(
            "width = 64\n",
            grown(by + by.signum()),
            "x",
            if by > 0 { "cap_exceeded" } else { "value_smaller_than_min" },
        );
    }
    let morphed = |size: u32| json!({"x": node("Morphology", json!({"image": ["picture", 0], "operation": "dilate", "kernel_size": size}))});
    // 64 × 32 pixels, nine times.
    fits("megapixels_total = 0.018432\n", morphed(3));
    is_refused("megapixels_total = 0.018431\n", morphed(3), "x", "size_exceeded");
}

#[test]
fn a_film_of_a_file_has_its_frames() {
    let nodes = json!({
        "f": node("LoadVideo", json!({"file": "film.mp4"})),
        "x": node("GetVideoComponents", json!({"video": ["f", 0]})),
    });
    fits("frames = 10\nwidth = 64\nheight = 64\n", nodes.clone());
    is_refused("frames = 9\n", nodes, "f", "size_exceeded");
}

#[test]
fn points_of_tracks_are_frames() {
    let nodes = |points: usize| {
        let text = format!("[{}]", vec![r#"{"x":1,"y":1}"#; points].join(","));
        json!({"x": node("WanMoveTracksFromCoords", json!({"track_coords": ["t", 0]})), "t": node("PrimitiveString", json!({"value": text}))})
    };
    is_refused("frames = 4\n", nodes(5), "x", "size_exceeded");
    fits("frames = 200\nwidth = 200\n", nodes(5));
}

#[test]
fn a_latent_of_pixels_becomes_as_large_as_its_cells_may() {
    let nodes = |encoder: &str, decoder: &str| {
        json!({
            "e": node("VAELoader", json!({ "vae_name": encoder })),
            "d": node("VAELoader", json!({ "vae_name": decoder })),
            "l": node("VAEEncode", json!({"pixels": ["picture", 0], "vae": ["e", 0]})),
            "x": node("VAEDecode", json!({"samples": ["l", 0], "vae": ["d", 0]})),
        })
    };
    fits("width = 64\n", nodes("a.safetensors", "a.safetensors"));
    fits("width = 64\n", nodes("pixel_space", "pixel_space"));
    fits("width = 512\n", nodes("pixel_space", "a.safetensors"));
    is_refused("width = 511\n", nodes("pixel_space", "a.safetensors"), "x", "size_exceeded");
}

#[test]
fn a_latent_of_larger_cells_is_resized_to_cells_of_eight() {
    let nodes = json!({
        "l": node("EmptyFlux2LatentImage", json!({"width": 64, "height": 32, "batch_size": 1})),
        "u": node("LatentUpscale", json!({"samples": ["l", 0], "upscale_method": "bilinear", "width": 128, "height": 64, "crop": "disabled"})),
        "x": node("VAEDecode", json!({"samples": ["u", 0], "vae": ["model", 2]})),
    });
    // 16 cells, which a VAE of 16 pixels makes 256 of.
    fits("vae_scale = 16\nwidth = 256\n", nodes.clone());
    is_refused("vae_scale = 16\nwidth = 255\n", nodes, "x", "size_exceeded");
}

#[test]
fn a_size_that_may_be_nothing_is_taken_for_the_word_that_nothing_is() {
    // A text of up to 13 characters, which may be none: a picture without width, whose width means "keep the aspect ratio".
    let nodes = json!({
        "t": node("StringSubstring", json!({"string": "one two three", "start": 0, "end": 13})),
        "n": node("StringLength", json!({"string": ["t", 0]})),
        "e": node("EmptyImage", json!({"width": ["n", 0], "height": 8, "batch_size": 1, "color": 0})),
        "g": node("GetImageSize", json!({"image": ["e", 0]})),
        "x": node("ImageScale", json!({"image": ["picture", 0], "upscale_method": "area", "width": ["g", 0], "height": 512, "crop": "disabled"})),
    });
    is_refused("width = 1023\n", nodes.clone(), "x", "size_exceeded");
    fits("width = 1024\n", nodes);
}

#[test]
fn a_linked_number_beyond_its_range_is_what_it_is_where_no_cap_asks() {
    let nodes = json!({
        "n": node("PrimitiveInt", json!({"value": 1_000_000})),
        "x": node("EmptyImage", json!({"width": ["n", 0], "height": ["n", 0], "batch_size": 1, "color": 0})),
    });
    is_refused("", nodes, "x", "memory_exceeded");
}

#[test]
fn many_tracks_take_as_many_times_the_memory() {
    let nodes = |tracks: usize| {
        let text = format!("[{}]", vec![r#"[{"x":1,"y":1}]"#; tracks].join(","));
        let inputs = json!({"positive": ["text", 0], "negative": ["text", 0], "vae": ["model", 2], "tracks": text, "width": 64, "height": 32, "length": 1, "batch_size": 1,
            "temperature": 220.0, "topk": 2, "start_image": ["picture", 0]});
        json!({"x": node("WanTrackToVideo", inputs)})
    };
    // 64 × 32 pixels, four times.
    fits("megapixels_total = 0.008192\n", nodes(23));
    is_refused("megapixels_total = 0.008192\n", nodes(24), "x", "size_exceeded");
}

#[test]
fn the_vae_that_made_a_latent_makes_no_more_of_it() {
    let nodes = |decoder: &str| {
        json!({
            "a": node("VAELoader", json!({"vae_name": "a.safetensors"})),
            "b": node("VAELoader", json!({"vae_name": "b.safetensors"})),
            "e": node("VAEEncode", json!({"pixels": ["picture", 0], "vae": ["a", 0]})),
            "u": node("LatentUpscaleBy", json!({"samples": ["e", 0], "upscale_method": "area", "scale_by": 2.0})),
            "x": node("VAEDecode", json!({"samples": ["u", 0], "vae": [decoder, 0]})),
        })
    };
    fits("vae_scale = 32\nwidth = 128\n", nodes("a"));
    fits("vae_scale = 32\nwidth = 512\n", nodes("b"));
    is_refused("vae_scale = 32\nwidth = 511\n", nodes("b"), "x", "size_exceeded");
    // Cells of eight may be more than the VAE made.
    let mut resized = nodes("a");
    resized["u"] = node(
        "LatentUpscale",
        json!({"samples": ["e", 0], "upscale_method": "area", "width": 128, "height": 64, "crop": "disabled"}),
    );
    is_refused("vae_scale = 32\nwidth = 511\n", resized, "x", "size_exceeded");
}
