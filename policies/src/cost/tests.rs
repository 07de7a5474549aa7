//! The shape of the cost: against published figures, and that it never falls when an input grows. Ratios are compared, not times.

use serde_json::{Value, json};

use super::*;
use crate::{Catalogue, FileFacts, Policy, Verdict, decide, parse};

/// What a workflow costs where everything is allowed.
fn cost_of(prompt: &Value) -> f64 {
    const FILLS_MEMORY: [&str; 2] = ["memory_exceeded", "conditioning_exceeded"];
    let policy =
        Policy::from_toml("name = \"p\"\nclasses.allow = [\"*\"]\ncaps.vae_scale = 8\ncaps.upscale_model_factor = 4")
            .unwrap();
    let parsed = parse(json!({ "prompt": prompt }).to_string().as_bytes()).unwrap();
    match decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none()) {
        Verdict::Allow(approved) => approved.cost().units(),
        // What would take all memory is refused under every policy, and has a cost all the same.
        Verdict::Deny(violations) if violations.iter().all(|violation| FILLS_MEMORY.contains(&violation.code)) => {
            violations.cost().units()
        }
        Verdict::Deny(violations) => panic!("{}", violations.to_json()),
    }
}

/// Text to image with a checkpoint.
fn image(model: &str, side: u64, steps: u64, cfg: f64, batch: u64) -> Value {
    json!({
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "x"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": side, "height": side, "batch_size": batch}},
        "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1,
            "steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    })
}

/// Text to image with FLUX, as its template does it.
fn flux(steps: u64) -> Value {
    json!({
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}},
        "2": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "t5xxl_fp16.safetensors", "clip_name2": "clip_l.safetensors", "type": "flux"}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "x"}},
        "5": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["4", 0], "guidance": 3.5}},
        "6": {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["5", 0]}},
        "7": {"class_type": "BasicScheduler", "inputs": {"model": ["1", 0], "scheduler": "simple", "steps": steps, "denoise": 1.0}},
        "8": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "9": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
        "10": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
        "11": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["9", 0], "guider": ["6", 0], "sampler": ["8", 0], "sigmas": ["7", 0], "latent_image": ["10", 0]}},
        "12": {"class_type": "VAEDecode", "inputs": {"samples": ["11", 0], "vae": ["3", 0]}},
        "13": {"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "x"}},
    })
}

fn near(found: f64, wanted: f64, tolerance: f64) {
    assert!((found / wanted - 1.0).abs() <= tolerance, "{found} is not within {tolerance} of {wanted}");
}

#[test]
fn a_guided_step_of_sdxl_at_its_own_size_is_the_unit() {
    let model = "sd_xl_base_1.0.safetensors";
    near(cost_of(&image(model, 1024, 40, 7.0, 1)) - cost_of(&image(model, 1024, 20, 7.0, 1)), 20.0, 1e-9);
    near(cost_of(&image(model, 1024, 40, 1.0, 1)) - cost_of(&image(model, 1024, 20, 1.0, 1)), 10.0, 1e-9);
}

#[test]
fn flux_has_the_published_constant_and_slope() {
    // RTX 4090, 1024 × 1024: 0.61 s a step and 6.57 s besides; 7 steps 11 s, 28 steps 23 s, 49 steps 37 s.
    let seconds = |steps: f64| 0.61f64.mul_add(steps, 6.57);
    let base = cost_of(&flux(28));
    for (steps, published) in [(7, 11.0), (28, 23.0), (49, 37.0)] {
        let ratio = cost_of(&flux(steps)) / base;
        near(ratio, seconds(f64::from(u32::try_from(steps).unwrap())) / seconds(28.0), 0.02);
        near(ratio, published / 23.0, 0.05);
    }
}

#[test]
fn every_family_costs_a_constant_and_as_much_for_each_step() {
    let mut families = 0;
    for model in [
        "v1-5.safetensors",
        "sd_xl.safetensors",
        "flux1-dev.safetensors",
        "wan2.1_t2v_14B.safetensors",
        "whatever.ckpt",
    ] {
        for side in [512, 1024, 1536] {
            let at = |steps: u64| cost_of(&image(model, side, steps, 7.0, 2));
            let (step, constant) = (at(11) - at(10), at(10) - 10.0 * (at(11) - at(10)));
            for steps in [1, 2, 7, 28, 49, 150] {
                near(at(steps), constant + step * f64::from(u32::try_from(steps).unwrap()), 1e-9);
            }
            assert!(step > 0.0 && constant >= 0.0, "{model} {side}: {step} {constant}");
            families += 1;
        }
    }
    assert_eq!(families, 15);
}

#[test]
fn sd15_grows_with_the_size_as_published() {
    let base = cost_of(&image("v1-5-pruned-emaonly.safetensors", 512, 20, 7.0, 1));
    for (side, published) in [(512, 1.0), (768, 2.2), (1024, 4.0), (1536, 9.0), (2048, 16.0)] {
        near(cost_of(&image("v1-5-pruned-emaonly.safetensors", side, 20, 7.0, 1)) / base, published, 0.05);
    }
}

#[test]
fn fifty_steps_at_512_are_about_ten_units_as_they_are_ten_kudos() {
    near(cost_of(&image("v1-5-pruned-emaonly.safetensors", 512, 50, 7.0, 1)), 10.0, 0.25);
}

#[test]
fn a_model_with_attention_grows_faster_than_its_area_and_no_faster_than_its_square() {
    let model = CostModel::builtin();
    let flux = model.family("UNETLoader", Some("FLUX1\\Flux1-Dev.safetensors")).unwrap();
    assert_eq!(flux.name, "flux");
    let ratio = flux.area(4.0, 1.0) / flux.area(1.0, 1.0);
    assert!(ratio > 4.0 && ratio < 16.0, "{ratio}");
    near(flux.area(1.0, 1.0), 1.0, 1e-12);
}

#[test]
fn models_are_known_by_the_names_that_they_are_published_under() {
    let model = CostModel::builtin();
    let family = |loader: &str, name: &str| model.family(loader, Some(name)).unwrap().name.clone();
    for (name, wanted) in [
        ("v1-5-pruned-emaonly-fp16.safetensors", "sd15"),
        ("sd_xl_base_1.0.safetensors", "sdxl"),
        ("SDXL\\juggernautXL_v9.safetensors", "sdxl"),
        ("flux1-schnell-fp8.safetensors", "flux-schnell"),
        ("flux1-dev-kontext_fp8_scaled.safetensors", "flux"),
        ("flux2_dev_fp8mixed.safetensors", "flux2"),
        ("qwen_image_edit_2509_fp8_e4m3fn.safetensors", "qwen-image"),
        ("wan2.1_t2v_1.3B_fp16.safetensors", "wan-1.3b"),
        ("wan2.2_ti2v_5B_fp16.safetensors", "wan-5b"),
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "wan-14b"),
        ("hunyuan_video_t2v_720p_bf16.safetensors", "hunyuan-video"),
        ("hunyuanimage2.1_bf16.safetensors", "hunyuan-image"),
        ("ltx-video-2b-v0.9.5.safetensors", "ltxv"),
        ("sd3.5_large_fp8_scaled.safetensors", "sd3.5-large"),
        ("sd3_medium_incl_clips.safetensors", "sd3"),
        ("z_image_turbo_bf16.safetensors", "z-image"),
        ("ace_step_v1_3.5b.safetensors", "audio"),
        ("svd_xt.safetensors", "svd"),
        ("dreamshaper_8.safetensors", "unknown"),
    ] {
        assert_eq!(family("CheckpointLoaderSimple", name), wanted, "{name}");
    }
    assert_eq!(family("UNETLoader", "mine.safetensors"), "unknown-large");
}

#[test]
fn more_passes_cost_more() {
    let plain = image("sd_xl_base_1.0.safetensors", 1024, 20, 7.0, 1);
    let base = cost_of(&plain);
    let mut patched = plain.clone();
    patched["7"] = json!({"class_type": "PerturbedAttentionGuidance", "inputs": {"model": ["1", 0], "scale": 3.0}});
    patched["4"]["inputs"]["model"] = json!(["7", 0]);
    near(cost_of(&patched) - base, 10.0, 1e-9);
    let mut combined = plain.clone();
    combined["7"] = json!({"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["2", 0], "conditioning_2": ["2", 0]}});
    combined["8"] = json!({"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["7", 0], "conditioning_2": ["7", 0]}});
    combined["4"]["inputs"]["positive"] = json!(["8", 0]);
    // Four positive passes instead of one.
    near(cost_of(&combined) - base, 30.0, 1e-9);
    let mut controlled = plain;
    controlled["7"] = json!({"class_type": "ControlNetLoader", "inputs": {"control_net_name": "c.safetensors"}});
    controlled["8"] =
        json!({"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}});
    controlled["9"] = json!({"class_type": "ControlNetApply", "inputs": {"conditioning": ["2", 0], "control_net": ["7", 0], "image": ["8", 0], "strength": 1.0}});
    controlled["4"]["inputs"]["positive"] = json!(["9", 0]);
    let added = cost_of(&controlled) - base;
    assert!(added > 4.9 && added < 5.1, "half a pass in each of 20 steps: {added}");
}

#[test]
fn conditionings_that_double_sixty_times_cost_a_finite_lot() {
    let mut prompt = image("sd_xl_base_1.0.safetensors", 1024, 20, 7.0, 1);
    let mut last = "2".to_owned();
    for place in 0..150 {
        let id = format!("c{place}");
        prompt[&id] = json!({"class_type": "ConditioningCombine", "inputs": {"conditioning_1": [last, 0], "conditioning_2": [last, 0]}});
        last = id;
    }
    prompt["4"]["inputs"]["positive"] = json!([last, 0]);
    let cost = cost_of(&prompt);
    assert!(cost.is_finite() && cost >= 1e14, "{cost}");
}

/// A small generator of numbers: the same seed gives the same workflows.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A chain of generators, samplers, decoders, scalers and encoders; the numbers in it that may grow, by pointer.
fn chain(dice: &mut Dice) -> (Value, Vec<String>) {
    let models = [
        "v1-5.safetensors",
        "sd_xl.safetensors",
        "flux1-dev.safetensors",
        "wan2.1_t2v_14B.safetensors",
        "whatever.ckpt",
    ];
    let model = models[usize::try_from(dice.below(5)).unwrap()];
    let mut prompt =
        image(model, 64 + 8 * dice.below(60), 1 + dice.below(50), 1.0 + dice.below(3) as f64, 1 + dice.below(4));
    let mut grow: Vec<String> =
        ["/3/inputs/width", "/3/inputs/height", "/3/inputs/batch_size", "/4/inputs/steps"].map(str::to_owned).to_vec();
    if dice.below(2) == 0 {
        prompt["3"] = json!({"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 16 * (1 + dice.below(30)), "height": 16 * (1 + dice.below(30)), "length": 1 + 4 * dice.below(20), "batch_size": 1}});
        grow.push("/3/inputs/length".to_owned());
    }
    let (mut picture, mut id) = ("5".to_owned(), 10);
    for _ in 0..dice.below(4) {
        let next = id.to_string();
        prompt[&next] = match dice.below(3) {
            0 => {
                grow.extend([format!("/{next}/inputs/width"), format!("/{next}/inputs/height")]);
                json!({"class_type": "ImageScale", "inputs": {"image": [picture, 0], "upscale_method": "area", "width": 32 + dice.below(900), "height": 32 + dice.below(900), "crop": "disabled"}})
            }
            1 => {
                grow.push(format!("/{next}/inputs/amount"));
                json!({"class_type": "RepeatImageBatch", "inputs": {"image": [picture, 0], "amount": 1 + dice.below(4)}})
            }
            _ => {
                let (latent, sampled) = ((id + 1).to_string(), (id + 2).to_string());
                prompt[&latent] =
                    json!({"class_type": "VAEEncode", "inputs": {"pixels": [picture, 0], "vae": ["1", 2]}});
                prompt[&sampled] = prompt["4"].clone();
                prompt[&sampled]["inputs"]["latent_image"] = json!([latent, 0]);
                grow.push(format!("/{sampled}/inputs/steps"));
                json!({"class_type": "VAEDecode", "inputs": {"samples": [sampled, 0], "vae": ["1", 2]}})
            }
        };
        picture = next;
        id += 3;
    }
    prompt["6"]["inputs"]["images"] = json!([picture, 0]);
    (prompt, grow)
}

#[test]
fn a_larger_input_never_costs_less() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut raised = 0;
    for _ in 0..120 {
        let (prompt, grow) = chain(&mut dice);
        let base = cost_of(&prompt);
        assert!(base.is_finite() && base > 0.0);
        assert_eq!(base.to_bits(), cost_of(&prompt).to_bits(), "the same workflow costs the same");
        for pointer in grow {
            let mut larger = prompt.clone();
            let value = larger.pointer_mut(&pointer).unwrap();
            *value = json!(value.as_u64().unwrap() + 16 * (1 + dice.below(2)));
            let found = cost_of(&larger);
            assert!(found >= base, "{pointer}: {found} < {base}\n{larger}");
            raised += u32::from(found > base);
        }
    }
    assert!(raised > 300, "most of them cost more: {raised}");
}

#[test]
fn a_table_with_a_fault_is_refused_with_the_fault() {
    let good = include_str!("../../documents/costs.toml");
    assert!(CostModel::from_toml(good).is_ok());
    for (from, to, wanted) in [
        ("decode = 1.5", "decode = -1.5", "work.decode"),
        ("decode = 1.5", "decode = nan", "work.decode"),
        ("decode = 1.5", "decoding = 1.5", "decod"),
        ("attention = 0.1", "attention = 1.1", "attention"),
        ("PerpNeg = 1", "PerpNeg = inf", "PerpNeg"),
        ("\"*mochi*\"", "\"*moc[hi*\"", "no pattern"),
        ("family = \"unknown\"\n", "family = \"unknown\"\nnames = [\"x\"]\n", "last"),
    ] {
        assert!(good.contains(from));
        let error = CostModel::from_toml(&good.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_measured_family_costs_what_was_measured() {
    let model = CostModel::builtin();
    let corrected = model.corrected("sdxl", 4.0, 0.75).unwrap();
    assert_ne!(corrected.digest(), model.digest());
    let family = corrected.family("CheckpointLoaderSimple", Some("sdxl.safetensors")).unwrap();
    assert_eq!((family.constant, family.pass), (4.0, 0.75));
    assert!(model.corrected("sdxl", -1.0, 1.0).is_none() && model.corrected("sdxl", 1.0, f64::NAN).is_none());
    assert!(model.corrected("no such", 1.0, 1.0).is_none());
}
