//! Graphs that once were outside of what the engine said, each as small as it was found.

use comfygate_policy::Catalogue;
use comfygate_policy::fuzzing::generator::{Given, Graph, GraphNode};
use serde_json::Value;

use super::{NARROW, Seen, WIDE, judge};

/// A graph in ComfyUI's API format whose nodes are numbered from 1 on, sources first.
fn graph(prompt: &str) -> Graph {
    let prompt: Value = serde_json::from_str(prompt).unwrap();
    let nodes = (1..=prompt.as_object().unwrap().len()).map(|id| node(&prompt[id.to_string()])).collect();
    Graph { nodes }
}

fn node(node: &Value) -> GraphNode {
    let class = node["class_type"].as_str().unwrap().to_owned();
    let signature = Catalogue::builtin().class(&class).unwrap();
    let outputs = signature.outputs().iter().map(|output| output.type_name().to_owned()).collect();
    let given = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([id, slot]) => {
            let place = id.as_str().unwrap().parse::<usize>().unwrap() - 1;
            Given::Link(place, usize::try_from(slot.as_u64().unwrap()).unwrap())
        }
        _ => Given::Literal(value.clone()),
    };
    let inputs = node["inputs"].as_object().unwrap();
    GraphNode { class, inputs: inputs.iter().map(|(name, value)| (name.clone(), given(value))).collect(), outputs }
}

fn lies_within(prompt: &str) {
    let graph = graph(prompt);
    let mut seen = Seen::default();
    for policy in [WIDE, NARROW] {
        let policy = comfygate_policy::Policy::from_toml(policy).unwrap();
        if let Some(fault) = judge(&graph, &policy, &mut seen) {
            panic!("{}: {fault}", policy.name());
        }
    }
    assert!(seen.allowed > 0 && seen.outputs > 0, "nothing was judged: {seen:?}");
}

#[test]
fn a_crop_at_a_negative_place_that_a_link_gives_may_leave_nothing() {
    lies_within(
        r#"{"1":{"class_type":"LoadImage","inputs":{"image":"tiny.png"}},
        "2":{"class_type":"PrimitiveInt","inputs":{"value":-9223372036854775807}},
        "3":{"class_type":"ImageCrop","inputs":{"image":["1",0],"width":256,"height":16,"x":["2",0],"y":64}},
        "4":{"class_type":"PreviewAny","inputs":{"source":["3",0]}}}"#,
    );
    lies_within(
        r#"{"1":{"class_type":"LoadImage","inputs":{"image":"tiny.png"}},
        "2":{"class_type":"PrimitiveInt","inputs":{"value":-12}},
        "3":{"class_type":"ImageCrop","inputs":{"image":["1",0],"width":7,"height":3,"x":0,"y":["2",0]}},
        "4":{"class_type":"PreviewAny","inputs":{"source":["3",0]}}}"#,
    );
}

#[test]
fn the_ratio_of_a_latent_with_cells_of_128_pixels_is_that_of_its_cells() {
    lies_within(
        r#"{"1":{"class_type":"PrimitiveInt","inputs":{"value":270}},
        "2":{"class_type":"StableCascade_EmptyLatentImage","inputs":{"width":["1",0],"height":325,"compression":128,"batch_size":5}},
        "3":{"class_type":"VAELoader","inputs":{"vae_name":"model.safetensors"}},
        "4":{"class_type":"VAEDecode","inputs":{"samples":["2",0],"vae":["3",0]}},
        "5":{"class_type":"PreviewAny","inputs":{"source":["4",0]}}}"#,
    );
}

#[test]
fn a_latent_that_is_repeated_to_the_number_of_another_may_be_smaller_than_it_was() {
    lies_within(
        r#"{"1":{"class_type":"EmptyLatentImage","inputs":{"width":64,"height":64,"batch_size":2}},
        "2":{"class_type":"EmptyLatentImage","inputs":{"width":64,"height":64,"batch_size":5}},
        "3":{"class_type":"LatentAdd","inputs":{"samples1":["1",0],"samples2":["2",0]}},
        "4":{"class_type":"VAELoader","inputs":{"vae_name":"model.safetensors"}},
        "5":{"class_type":"VAEDecode","inputs":{"samples":["3",0],"vae":["4",0]}},
        "6":{"class_type":"PreviewAny","inputs":{"source":["5",0]}}}"#,
    );
}

/// ComfyUI 0.8.0 gives 16 × 16 channels × 16 frames × 8 × 8 for it.
#[test]
fn the_channels_of_a_picture_become_frames_beside_a_film() {
    let mixed = |first: &str, second: &str, class: &str, more: &str| {
        format!(
            r#"{{"1":{{"class_type":"EmptySD3LatentImage","inputs":{{"width":64,"height":64,"batch_size":16}}}},
            "2":{{"class_type":"EmptyHunyuanLatentVideo","inputs":{{"width":64,"height":64,"length":1,"batch_size":16}}}},
            "3":{{"class_type":"{class}","inputs":{{"samples1":["{first}",0],"samples2":["{second}",0]{more}}}}},
            "4":{{"class_type":"PreviewAny","inputs":{{"source":["3",0]}}}}}}"#
        )
    };
    for (first, second) in [("1", "2"), ("2", "1")] {
        lies_within(&mixed(first, second, "LatentAdd", ""));
        lies_within(&mixed(first, second, "LatentSubtract", ""));
        lies_within(&mixed(first, second, "LatentInterpolate", r#","ratio":0.5"#));
    }
}

#[test]
fn a_side_that_rounds_to_nothing_is_nothing_with_the_method_area() {
    lies_within(
        r#"{"1":{"class_type":"EmptyImage","inputs":{"width":1,"height":226,"batch_size":1,"color":0}},
        "2":{"class_type":"ImageScaleToMaxDimension","inputs":{"image":["1",0],"upscale_method":"area","largest_size":26}},
        "3":{"class_type":"ImageScaleBy","inputs":{"image":["1",0],"upscale_method":"area","scale_by":0.01}},
        "4":{"class_type":"PreviewAny","inputs":{"source":["2",0]}},
        "5":{"class_type":"PreviewAny","inputs":{"source":["3",0]}}}"#,
    );
}

#[test]
fn cropping_the_latent_of_a_film_cuts_time_and_height() {
    lies_within(
        r#"{"1":{"class_type":"EmptyHunyuanVideo15Latent","inputs":{"width":128,"height":108,"length":6,"batch_size":6}},
        "2":{"class_type":"LatentCrop","inputs":{"samples":["1",0],"width":359,"height":64,"x":6,"y":0}},
        "3":{"class_type":"PreviewAny","inputs":{"source":["2",0]}}}"#,
    );
}

#[test]
fn the_latent_of_a_3d_model_beside_that_of_a_picture_is_refused() {
    let prompt = r#"{"1":{"class_type":"EmptyLatentHunyuan3Dv2","inputs":{"resolution":460,"batch_size":1}},
        "2":{"class_type":"EmptyLatentImage","inputs":{"width":64,"height":64,"batch_size":1}},
        "3":{"class_type":"LatentAdd","inputs":{"samples1":["1",0],"samples2":["2",0]}},
        "4":{"class_type":"PreviewAny","inputs":{"source":["3",0]}}}"#;
    let mut seen = Seen::default();
    let fault = judge(&graph(prompt), &comfygate_policy::Policy::from_toml(WIDE).unwrap(), &mut seen);
    assert_eq!((fault, seen.refused.get("size_unbounded")), (None, Some(&1)));
}
